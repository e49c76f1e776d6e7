"""Where a secret could have got to: every file of a stack, every database, every answer of its services' APIs."""

from __future__ import annotations

import gzip
import json
import sqlite3
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet as pq

from benchmarks.reliability.nest import Nest
from infra.local.layout import Layout
from infra.local.processes import STACK_MARK
from millrace.settings import Settings

_PAGE = 200
_SQLITE = b"SQLite format 3\0"
_TIMEOUT_SECONDS = 30.0


def scan(
    settings: Settings, nest: Nest, texts: Iterable[tuple[str, str]] = (), homes: frozenset[Path] = frozenset()
) -> dict[str, set[str]]:
    """Each place that tells a canary, and which. `texts` are (where, what); `homes` the secrets' own files."""
    found: dict[str, set[str]] = {}
    for where, content in _everything(settings, texts, homes):
        for canary in nest.find(content):
            found.setdefault(where, set()).add(canary)
    return found


def _everything(
    settings: Settings, texts: Iterable[tuple[str, str]], homes: frozenset[Path]
) -> Iterator[tuple[str, bytes]]:
    layout = Layout(settings.state)
    for folder in {layout.state, layout.short, layout.ray_temp}:
        yield from files(folder, homes)
    yield from _answers(settings)
    yield from _command_lines(settings)
    for where, text in texts:
        yield where, text.encode()


def files(folder: Path, homes: frozenset[Path]) -> Iterator[tuple[str, bytes]]:
    """Name and contents of each file below `folder`, unpacked where it is packed, but for the secrets' own `homes`."""
    for path in sorted(folder.rglob("*")):
        yield f"name of {path}", path.name.encode()
        if path in homes or path.is_symlink() or not path.is_file():
            continue
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue  # a living stack rotates its files
        yield str(path), content
        for inside in _unpacked(path, content):
            yield f"{path}, unpacked", inside


def _unpacked(path: Path, content: bytes) -> Iterator[bytes]:
    """What compression or paging would hide."""
    if content.startswith(_SQLITE):
        yield _dump(path)
    elif path.suffix == ".parquet" and content.startswith(b"PAR1"):
        table = pq.read_table(path)
        yield repr(table.schema.metadata).encode()
        for column in table.itercolumns():
            yield "\n".join(map(str, column.to_pylist())).encode()
    elif content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield archive.read(name)


def _dump(path: Path) -> bytes:
    """Every value of every table: a long one lies scattered over the file's pages, the newest are in its WAL."""
    values: list[bytes] = []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                values += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    return b"\n".join(values)


def _answers(settings: Settings) -> Iterator[tuple[str, bytes]]:
    """What Prefect and MLflow tell whoever asks, and so their UIs."""
    with httpx.Client(
        timeout=_TIMEOUT_SECONDS, base_url=settings.prefect_api_url, headers=settings.prefect_headers
    ) as client:
        for part in ("flow_runs", "task_runs", "logs", "artifacts", "deployments", "work_queues", "automations"):
            yield f"Prefect's {part}", json.dumps(list(pages(client, f"/{part}/filter"))).encode()
        for run in pages(client, "/flow_runs/filter"):
            states = client.get("/flow_run_states/", params={"flow_run_id": run["id"]})
            yield f"states of flow run {run['id']}", states.raise_for_status().content
        yield "Prefect's events", json.dumps(list(_events(client))).encode()
    url = f"{settings.mlflow_url}/api/2.0/mlflow"
    with httpx.Client(timeout=_TIMEOUT_SECONDS, base_url=url, headers=settings.mlflow_headers) as client:
        found = client.post("/experiments/search", json={"max_results": 1000}).raise_for_status().json()
        ids = [experiment["experiment_id"] for experiment in found.get("experiments", [])]
        yield "MLflow's experiments", json.dumps(found).encode()
        runs = client.post("/runs/search", json={"experiment_ids": ids, "max_results": 1000})
        yield "MLflow's runs", runs.raise_for_status().content
        for part in ("registered-models", "model-versions"):
            answer = client.get(f"/{part}/search", params={"max_results": 1000})
            yield f"MLflow's {part}", answer.raise_for_status().content


def pages(client: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    """All that one of Prefect's filters finds."""
    offset = 0
    while page := client.post(path, json={"limit": _PAGE, "offset": offset}).raise_for_status().json():
        yield from page
        offset += _PAGE


def _events(client: httpx.Client) -> Iterator[Any]:
    answer = client.post("/events/filter", json={"limit": 50, "filter": {}}).raise_for_status().json()
    yield answer["events"]
    while answer.get("next_page"):
        answer = client.get(answer["next_page"]).raise_for_status().json()
        yield answer["events"]


def _command_lines(settings: Settings) -> Iterator[tuple[str, bytes]]:
    mark = str(settings.state)
    for process in psutil.process_iter():
        try:
            if process.environ().get(STACK_MARK) == mark:
                yield f"command line of {process.pid}", "\0".join(process.cmdline()).encode()
        except psutil.Error:
            continue
