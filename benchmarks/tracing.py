"""What traces cost: the service in this process, the same requests with and without them, in turns.

`python -m benchmarks.tracing` prints a table and writes benchmarks/results/tracing.json.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.record import write
from millrace.encoding import TableInputs
from millrace.package import LabelScale, Predictor, publish_package
from millrace.pipeline import Pipeline, load_pipeline
from millrace.spec import NumericFeature
from millrace.storage import ObjectStore
from millrace.traces.recorder import Recorder
from ray_jobs.serve.service import PredictionService
from ray_jobs.serve.tracing import Traces
from ray_jobs.serve.versions import Target

CALLERS = (1, 16, 64)
_PIPELINE = "flight_delays"
#: What a browser, a proxy and a key add to what every request has.
_HEADERS = (
    (b"host", b"127.0.0.1:8000"),
    (b"content-type", b"application/json"),
    (b"user-agent", b"python-httpx/0.28"),
    (b"accept", b"*/*"),
    (b"x-forwarded-for", b"10.0.0.7"),
)
_TRACED = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")

Message = MutableMapping[str, Any]


def measure_cost(
    *, pairs: int = 40, requests: int = 960, callers: Sequence[int] = CALLERS, pipelines: Path = Path("pipelines")
) -> dict[str, Any]:
    """The share of throughput that traces cost at 100 % sampling, for each number of callers at once.

    Requests of one row, as many with as without traces, in turns (ABBA): `pairs` times `requests`. What the background
    threads have to do for a round they do within it, so no work is left out but the making of Parquet once a minute,
    which is measured alone (`parquet_us`). `share` is of the processor time of the whole process: it is what throughput
    loses where the processor is what bounds it, and other processes disturb it less than `wall_share`, which is of the
    time a round took. Both are medians over the pairs; half of them lie within the quartiles. `exported` is the same
    with a collector on this machine that throws everything away.
    """
    with tempfile.TemporaryDirectory(prefix="tracing-") as root, _sink() as collector:
        return asyncio.run(_measure(Path(root), pipelines, pairs, requests, callers, collector))


async def _measure(
    root: Path, pipelines: Path, pairs: int, requests: int, callers: Sequence[int], collector: str
) -> dict[str, Any]:
    torch.set_num_threads(1)
    pipeline = load_pipeline(_PIPELINE, pipelines.absolute())
    row, store = _row(pipeline), ObjectStore(str(root / "objects"))
    target = _publish(pipeline, store, row)
    traces = {
        "with": Traces(root / "with", _PIPELINE),
        "exported": Traces(root / "exported", _PIPELINE, collector),
    }
    services = {
        name: PredictionService(pipeline, store, root / name, metrics_folder=root / "metrics", traces=traces.get(name))
        for name in ("without", *traces)
    }
    for service in services.values():
        await service.load(target)
    body = json.dumps({"rows": [row]}).encode()
    figures: dict[str, Any] = {"pairs": pairs, "requests_a_round": requests}
    try:
        for number in callers:
            rounds = {
                name: _Round(service, body, requests, number, traces.get(name)) for name, service in services.items()
            }
            figures[f"{number} callers"] = {name: await _compare(rounds, name, pairs) for name in traces}
        figures["parquet_us"] = await _parquet(rounds["with"], traces["with"].recorder)
        figures["coverage"] = await _coverage(services["with"], body)
    finally:
        for service in services.values():
            service.close()
    return figures


async def _compare(rounds: dict[str, _Round], name: str, pairs: int) -> dict[str, Any]:
    took: dict[str, list[tuple[float, float]]] = {"without": [], name: []}
    for which in took:
        await rounds[which].play()  # warm
    for pair in range(pairs):
        for which in ("without", name) if pair % 2 else (name, "without"):
            took[which].append(await rounds[which].play())
    without, traced = (np.array(took[which]) for which in took)  # [pairs, 2]
    shares = 1 - without / traced
    each = 1e6 / rounds[name].requests
    return {
        "share": float(np.median(shares[:, 0])),
        "quartiles": np.quantile(shares[:, 0], (0.25, 0.75)).tolist(),
        "without_us": float(np.median(without[:, 0])) * each,
        "with_us": float(np.median(traced[:, 0])) * each,
        "wall_share": float(np.median(shares[:, 1])),
        "wall_quartiles": np.quantile(shares[:, 1], (0.25, 0.75)).tolist(),
    }


class _Round:
    """Some requests by some callers at once, each of whom asks again when it is answered."""

    def __init__(
        self, service: PredictionService, body: bytes, requests: int, callers: int, traces: Traces | None
    ) -> None:
        self.requests = requests // callers * callers
        self._service, self._callers, self._traces = service, callers, traces
        self._request = {"type": "http.request", "body": body, "more_body": False}
        length = (b"content-length", str(len(body)).encode())
        self._headers = [*_HEADERS, length, _TRACED]

    async def play(self) -> tuple[float, float]:
        """Seconds of processor time and of time that a round took."""
        gc.collect()
        began, spent = time.perf_counter(), time.process_time()
        each = self.requests // self._callers
        await asyncio.gather(*[self._ask(each) for _ in range(self._callers)])
        if self._traces is not None:
            self._traces.recorder.flush()
            if self._traces.exporter is not None and not self._traces.exporter.flush(60):
                raise TimeoutError("the collector does not take traces")
        return time.process_time() - spent, time.perf_counter() - began

    async def _ask(self, times: int) -> None:
        async def receive() -> Message:
            return self._request

        async def send(message: Message) -> None:
            # As a server does: others get their turn.
            await asyncio.sleep(0)

        for _ in range(times):
            scope = {"type": "http", "method": "POST", "path": "/predict", "headers": self._headers}
            await self._service(scope, receive, send)


async def _parquet(played: _Round, recorder: Recorder, rounds: int = 20) -> float:
    """Microseconds of processor time a request that the making of Parquet takes, for a segment of some thousand."""
    recorder.rotate()
    for _ in range(rounds):
        await played.play()
    began = time.process_time()
    recorder.rotate()
    return (time.process_time() - began) / (rounds * played.requests) * 1e6


async def _coverage(service: PredictionService, body: bytes, requests: int = 500) -> dict[str, float]:
    """Which share of a request, as its caller sees it (from the call to the last byte), its trace covers."""
    from millrace.traces.table import read_traces

    began = pd.Timestamp.now("UTC")
    length = (b"content-length", str(len(body)).encode())
    seen: list[float] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    for _ in range(requests):
        sent = 0.0

        async def send(message: Message) -> None:
            nonlocal sent
            sent = time.perf_counter()

        started = time.perf_counter()
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [*_HEADERS, length]}
        await service(scope, receive, send)
        seen.append(sent - started)
    traces = service._traces
    assert traces is not None
    traces.recorder.flush()
    found = read_traces(service._folder)
    found = found[found["started_at"] >= began]
    shares = np.minimum(found["duration_us"].to_numpy() / (np.array(seen) * 1e6), 1.0)
    return {"mean": float(shares.mean()), "p1": float(np.quantile(shares, 0.01))}


def _row(pipeline: Pipeline) -> dict[str, Any]:
    return {
        name: (1.0 if feature.min is None else feature.min)
        if isinstance(feature, NumericFeature)
        else feature.values[0]
        for name, feature in pipeline.spec.table.features.items()
    }


def _publish(pipeline: Pipeline, store: ObjectStore, row: dict[str, Any]) -> Target:
    spec = pipeline.spec
    module = pipeline.build_model(TableInputs.shaped(spec.table), dict(spec.model.options)).eval()
    package = publish_package(
        store,
        "packages/1",
        predictor=Predictor(spec, module, LabelScale()),
        reference=pd.DataFrame([row | {spec.table.label.column: label} for label in (0, 1)]),
        card="",
        lineage={},
        metrics={},
    )
    return Target("1", package.key, package.digest)


_SINK = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format, *args):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def _sink() -> Iterator[str]:
    """A collector in a process of its own, which takes everything and keeps nothing."""
    with subprocess.Popen([sys.executable, "-c", _SINK], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def main() -> None:
    """Measure, print and write."""
    figures = measure_cost()
    table = Table("callers", "traces", "µs without", "µs with", "share", "half of the pairs")
    for callers in CALLERS:
        for name, found in figures[f"{callers} callers"].items():
            low, high = found["quartiles"]
            cells = (f"{found['without_us']:.1f}", f"{found['with_us']:.1f}", f"{found['share']:.2%}")
            table.add_row(str(callers), name, *cells, f"{low:.2%} to {high:.2%}")
    Console().print(table)
    print(f"Parquet: {figures['parquet_us']:.2f} µs a request; coverage: {figures['coverage']}")
    print(f"written to {write('tracing', figures)}")


if __name__ == "__main__":
    main()
