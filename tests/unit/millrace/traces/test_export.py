"""Traces reach a collector over real HTTP, and one that is away costs traces only."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from millrace.traces.export import Exporter
from millrace.traces.quiet import Quiet
from millrace.traces.records import STAGES, Block
from tests.unit.millrace.traces.collector import Collector, collecting
from tests.unit.millrace.traces.material import block_of, record

SPANS = 1 + len(STAGES)
FAST = {"gather_seconds": 0.0, "first_pause": 0.001}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def block(number: int = 1, request_id: str = "r") -> Block:
    return block_of([record(request_id=request_id) for _ in range(number)], 1_700_000_000.0)


def exporter_to(url: str, **change: Any) -> Exporter:
    return Exporter(url, {"service.name": "tiny"}, **(FAST | change))


def test_a_collector_gets_them(collector: Collector) -> None:
    exporter = exporter_to(collector.url)
    exporter.offer(block(3))
    assert exporter.flush(30)
    assert len(collector.spans) == 3 * SPANS
    assert collector.seen == [("/v1/traces", "application/x-protobuf")]
    exporter.close()
    assert exporter.lost == 0


def test_they_are_gathered_and_closing_does_not_wait_for_that(collector: Collector) -> None:
    exporter = exporter_to(collector.url, gather_seconds=600.0)
    for _ in range(5):
        exporter.offer(block(2))
    exporter.close()
    assert len(collector.requests) == 1
    assert len(collector.spans) == 10 * SPANS


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_what_is_refused_for_now_is_sent_again(status: int, collector: Collector) -> None:
    collector.answers = [status, status]
    exporter = exporter_to(collector.url)
    exporter.offer(block())
    assert exporter.flush(30)
    exporter.close()
    assert (len(collector.seen), len(collector.spans), exporter.lost) == (3, SPANS, 0)


def test_what_is_refused_for_good_is_not(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    collector.answers = [400]
    exporter = exporter_to(collector.url)
    exporter.offer(block(4))
    assert exporter.flush(30)
    exporter.offer(block(1, "later"))
    exporter.close()
    assert (len(collector.seen), len(collector.spans), exporter.lost) == (2, SPANS, 4)
    assert "status 400" in caplog.messages[0]


def test_it_gives_up_after_some_tries(collector: Collector) -> None:
    collector.answers = [503] * 5
    exporter = exporter_to(collector.url)
    exporter.offer(block(4))
    assert exporter.flush(30)
    exporter.close()
    assert (len(collector.seen), collector.spans, exporter.lost) == (5, [], 4)


def test_a_part_that_is_refused_is_said(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    collector.rejected = 2
    exporter = exporter_to(collector.url)
    exporter.offer(block())
    exporter.close()
    assert any("refused 2 spans: too old" in line for line in caplog.messages)


def test_a_collector_that_is_away_costs_the_oldest_traces_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        exporter = exporter_to(f"http://127.0.0.1:{bound.getsockname()[1]}", most_blocks=3, first_pause=600.0)
        with caplog.at_level(logging.WARNING):
            for _ in range(50):
                exporter.offer(block(2))
            exporter.close()
    assert exporter.lost == 100
    assert len(caplog.messages) == 1


def test_a_warning_comes_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    warn = Quiet(logging.getLogger("quiet"), clock=lambda: now[0])
    for second in range(130):
        now[0] = float(second)
        warn(f"at {second}")
    assert caplog.messages == ["at 0", "at 60", "at 120"]
