"""Whatever lies in pipeline.yaml: a spec, or a message a person can act on, in bounded time and size."""

from __future__ import annotations

import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from millrace.errors import SpecError
from millrace.spec import PipelineSpec
from millrace.spec.load import load_spec, parse_spec
from tests.unit.fuzz.material import examples, mangled, mutated, values

_MOST_CHARS = 8000
_PIECES = [
    "a",
    "b: ",
    "- ",
    "? ",
    ": ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\n",
    "  ",
    "\t",
    "#",
    "|\n",
    ">-\n",
    "'",
    '"',
    "---\n",
    "...\n",
    "&a ",
    "*a",
    "<<: ",
    "!!int ",
    "!!float ",
    "!!bool ",
    "!!timestamp ",
    "!!binary ",
    "!!set ",
    "!!omap ",
    "!!pairs ",
    "!!null ",
    "!!python/object/apply:os.system ",
    "!x ",
    "%YAML 1.1\n",
    "2013-02-30",
    "0x",
    "1_0",
    "1:99:99",
    ".nan",
    "9" * 5000,
    "0x" + "f" * 5000,
    "1e999",
    "\x00",
    "\ufeff",
    "\u2028",
    '"\\ud800"',
    "name: tiny\n",
    "data:\n",
    "y",
    "no",
]


def load(content: bytes) -> PipelineSpec | SpecError:
    """What `load_spec` makes of a file of these bytes."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "tiny"
        folder.mkdir()
        (folder / "pipeline.yaml").write_bytes(content)
        try:
            return load_spec(folder)
        except SpecError as error:
            assert error.what
            assert error.next is not None or error.allowed is not None, error
            assert len(str(error)) < _MOST_CHARS
            return error


@given(st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(_PIECES), max_size=25).map("".join).map(str.encode)))
@example(b"!!bool maybe")
@example(b"!!timestamp x")
@example(b"!!int ''")
@example(b"!!float 1:x")
@example(b"[" * 20_000)
@example(b"{a: " * 5000)
@example(b"- " * 5000)
@example(b"? " * 5000)
@example(b"&a [*a]")
@example(b"name: 0x" + b"f" * 5000)
@example(b"\xff\xfe\x00")
@example(b"a" * 2_000_000)
@examples(0.3)
def test_any_bytes(content: bytes) -> None:
    assert isinstance(load(content), SpecError)


@given(data=st.data())
@examples(0.3)
def test_a_valid_file_with_bytes_wrong(data: st.DataObject, spec_document: Callable[..., dict[str, Any]]) -> None:
    load(data.draw(mangled(yaml.safe_dump(spec_document("multiclass"), sort_keys=False).encode())))


@given(data=st.data())
@examples(0.2)
def test_a_valid_document_with_values_wrong(data: st.DataObject, spec_document: Callable[..., dict[str, Any]]) -> None:
    """Through `parse_spec`, which packages use too, and through YAML text (JSON is YAML) where it can be written."""
    full = PipelineSpec.model_validate(spec_document("multiclass")).model_dump()
    document = data.draw(mutated(data.draw(st.sampled_from([full, spec_document("binary")]))))
    try:
        parse_spec(document)
    except SpecError as error:
        assert len(str(error)) < _MOST_CHARS
        assert error.next is not None or error.allowed is not None
    load(json.dumps(document, default=str).encode() if _is_writable(document) else repr(type(document)).encode())


@given(values)
def test_any_document(document: object) -> None:
    with pytest.raises(SpecError):
        parse_spec(document)


def test_aliases_that_name_billions_of_values_are_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 40)]
    merges = ["m0: &m0 {k: 1}", *(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}" for n in range(1, 40))]
    tracemalloc.start()
    started = time.perf_counter()
    for bomb in (lines, merges, ["[", *lines, "]"]):
        found = load("\n".join(bomb).encode())
        assert isinstance(found, SpecError)
    assert time.perf_counter() - started < 5
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    assert "aliases" in str(load("\n".join(lines).encode()))


def test_many_repeated_categories_are_told_at_once(spec_document: Callable[..., dict[str, Any]]) -> None:
    repeated = {"kind": "categorical", "values": [f"v{n}" for n in range(50_000)] * 2}
    started = time.perf_counter()
    with pytest.raises(SpecError, match="listed twice") as caught:
        parse_spec(spec_document("binary", {"data.features.colour": repeated}))
    assert time.perf_counter() - started < 5
    assert len(str(caught.value)) < _MOST_CHARS


def _is_writable(document: object) -> bool:
    try:
        json.dumps(document, default=str)
    except ValueError:  # an integer that Python refuses to write
        return False
    return True
