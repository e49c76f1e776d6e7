"""Millrace's service in this process behind uvicorn: HTTP as callers speak it, without Ray and HAProxy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.serving.dialects import ROWS
from benchmarks.serving.fixture import PIPELINE, Fixture
from benchmarks.serving.packages import publish
from benchmarks.serving.target import Target
from millrace.pipeline import load_pipeline
from millrace.storage import ObjectStore
from ray_jobs.serve.service import PredictionService
from ray_jobs.serve.tracing import Traces
from tests.served import listening

VERSION = "1"


@contextmanager
def served(fixture: Fixture, logs: str = "inference", *, traced: bool = False) -> Iterator[Target]:
    """A service with the fixture's first version, which keeps its logs in a folder of that name beside the fixture."""
    name, folder = PIPELINE.name, fixture.folder / logs
    pipeline, store = load_pipeline(name, PIPELINE.parent), ObjectStore(str(fixture.folder / "objects"))
    service = PredictionService(pipeline, store, folder, traces=Traces(folder, name) if traced else None)
    try:
        asyncio.run(service.load(publish(pipeline, store, fixture.folder, int(VERSION))))
        with listening(service) as port:
            yield Target("127.0.0.1", port, f"/v1/{name}/predict", ROWS, fixture)
    finally:
        service.close()
