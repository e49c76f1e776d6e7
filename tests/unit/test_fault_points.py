"""Every durable write and every call to another system is a named fault point: here is what finds one that is not.

A call counts as such an effect by its name (`EFFECTS`). It must lie inside `with fault_point("…")` of the same
function, or in a function that is only ever called from inside one (`INSIDE`, with the reason).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("millrace", "ray_jobs", "tasks", "flows")

#: Dotted ends of calls that write something durable, or ask another system.
EFFECTS = (
    # files and objects
    "os.link", "os.rename", "os.replace", "os.write", "os.pwrite", "os.unlink", "shutil.copyfile", "shutil.move",
    "shutil.rmtree", ".write_bytes", ".write_text",
    ".pipe_file", ".cat_file", "_fs.rm", "partial.replace", "partial.rename",
    "path.unlink", "pq.write_table", ".save_html",
    # databases
    "_database.write", "command.upgrade",
    # services
    "httpx.request", "httpx.get", "httpx.post", "client.post", "client.get", "create_markdown_artifact",
    "subprocess.run", "ray.init", "ray.get", "trainer.fit", "serve.run_many", "serve.delete", ".broadcast",
    "get_serve_details", "getattr(self._client, method)",
)  # fmt: skip

#: Functions whose effects lie inside a fault point of their caller, and why they are not points themselves.
INSIDE = {
    ("millrace/storage.py", "_put"): "storage.write: a file that is not seen yet",
    ("millrace/storage.py", "_create"): "storage.commit",
    ("millrace/storage.py", "_remove"): "storage.remove",
    ("millrace/storage.py", "_cat"): "storage.read and storage.find",
    ("millrace/ledger/database.py", "_upgrade"): "ledger.migrate: around the lock that is held meanwhile",
    ("millrace/parquet.py", "write"): "writes into memory",
    ("millrace/segments.py", "write"): "log.append and log.create",
    ("millrace/quotas.py", "_write"): "quota.take and quota.give_back",
    ("millrace/scaffold/write.py", "_write"): "writes into a scratch folder; scaffold.put moves it to its place",
    ("millrace/provenance.py", "_git"): "asks git of this checkout: no other system, and nothing is written",
    ("tasks/registry.py", "_write_model_folder"): "writes into a scratch folder; mlflow.log_artifacts sends it",
    ("millrace/faults.py", "write"): "the fault points' own folder",
    ("ray_jobs/train/layout/engine.py", "_from_last_stage"): "a collective among the ranks of one run",
}


@dataclass(frozen=True)
class Effect:
    """One call that has an effect."""

    path: str
    function: str
    line: int
    call: str
    point: bool


def effects_in(source: str, path: str) -> Iterator[Effect]:
    """The effects of a module, and whether each lies inside a fault point."""
    yield from _walk(ast.parse(source), path, "<module>", inside=False)


def _walk(node: ast.AST, path: str, function: str, *, inside: bool) -> Iterator[Effect]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function, inside = node.name, False
    if isinstance(node, ast.With | ast.AsyncWith):
        named = False
        for item in node.items:
            yield from _walk(item.context_expr, path, function, inside=inside or named)
            named = named or _is_point(item.context_expr)
        for child in node.body:
            yield from _walk(child, path, function, inside=inside or named)
        return
    if isinstance(node, ast.Call) and (call := ast.unparse(node.func)) and _is_effect(call):
        yield Effect(path, function, node.lineno, call, inside)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, path, function, inside=inside)


def _is_point(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Call) and ast.unparse(expression.func) == "fault_point"


def _is_effect(call: str) -> bool:
    return call.endswith(EFFECTS)


def sources() -> list[Path]:
    return sorted(
        path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "templates" not in path.parts
    )


def all_effects() -> list[Effect]:
    return [effect for path in sources() for effect in effects_in(path.read_text(), str(path.relative_to(ROOT)))]


def test_every_effect_is_a_named_point() -> None:
    unnamed = [effect for effect in all_effects() if not effect.point and (effect.path, effect.function) not in INSIDE]
    assert not unnamed, "\n".join(f"{e.path}:{e.line} {e.function}: {e.call} is no fault point" for e in unnamed)


def test_what_is_said_to_lie_inside_is_there() -> None:
    found = {(effect.path, effect.function) for effect in all_effects() if not effect.point}
    assert set(INSIDE) - found == set(), "remove these from INSIDE"


def test_enough_is_found() -> None:
    """The search itself works: it sees the places that we know."""
    by_file = Counter(effect.path for effect in all_effects())
    known = {
        "millrace/storage.py": 8,
        "millrace/ledger/outbox.py": 4,
        "tasks/registry.py": 1,
        "tasks/prefect_api.py": 1,
    }
    assert {path: count for path, count in known.items() if by_file[path] < count} == {}


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("def f():\n    httpx.post('u')", False),
        ("def f():\n    with fault_point('a'):\n        httpx.post('u')", True),
        ("def f():\n    with fault_point('a'), open('x') as g, httpx.post('u'):\n        pass", True),
        ("def f():\n    with httpx.post('u'), fault_point('a'):\n        pass", False),
        ("def f():\n    with fault_point('a'):\n        def g():\n            os.link(1, 2)\n", False),
        ("def f():\n    with self._database.write() as c:\n        pass", False),
        ("def f():\n    with fault_point('a'), self._database.write() as c:\n        pass", True),
    ],
)
def test_what_counts_as_inside(source: str, named: bool) -> None:
    (effect,) = effects_in(source, "x.py")
    assert effect.point is named
