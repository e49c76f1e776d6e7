"""Seconds of the inference log, of two versions: the same ones whenever they are read, and however segments close."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.canary.polls import POLL_MICROSECONDS, CanaryLog, Poll
from millrace.inference_log import answers_writer, failure_record, failures_writer, outcomes_writer
from millrace.log_writer import LogWriter
from millrace.spec import Label
from millrace.spec.load import parse_spec
from tests.unit.conftest import _document

BINARY = parse_spec(_document("binary")).data
BEGIN = 1_700_000_000_000_000


class Log:
    """The inference log of pipeline `tiny` below `folder`, written line by line."""

    def __init__(self, folder: Path, data: Any = BINARY) -> None:
        self.folder, self.label, self._data = folder, data.label, data
        self._stack = ExitStack()
        self.answers = self._open(answers_writer(folder, data, 1e9))
        self.outcomes = self._open(outcomes_writer(folder, data, 1e9))
        self.failures = self._open(failures_writer(folder, 1e9))

    def _open(self, writer: LogWriter) -> LogWriter:
        return self._stack.enter_context(closing(writer))

    def answer(self, name: str, version: str, at: int, prediction: Any = (0.5,), seconds: float = 0.01) -> None:
        rows = len(prediction)
        kinds = {"numeric": 1.0, "categorical": "red"}
        self.answers.append(
            {
                "request_id": name,
                "version": version,
                "customer": "",
                "answered_at": BEGIN + at,
                "seconds": seconds,
                "row_id": [None] * rows,
                "event_time": [BEGIN] * rows,
                "features": {f: [kinds[kind.kind]] * rows for f, kind in self._data.features.items()},
                "prediction": list(prediction),
                "probabilities": {name: [0.5] * rows for name in self.label.classes},
            }
        )

    def fail(self, name: str, version: str, at: int) -> None:
        moment = datetime.fromtimestamp((BEGIN + at) / 1e6, UTC)
        self.failures.append(failure_record(name, version, moment, 500, ValueError("x")))

    def outcome(self, name: str, label: Any, row: int = 0) -> None:
        self.outcomes.append({"request_id": [name], "row": [row], "label": [label], "known_at": [BEGIN]})

    def rotate(self) -> None:
        for writer in (self.answers, self.outcomes, self.failures):
            writer.rotate()

    def read(self, **change: Any) -> CanaryLog:
        given = {"canary": "2", "primary": "1", "with_losses": True, "since_seconds": 600.0} | change
        log = CanaryLog(self.folder, self.label, **given)
        self._stack.callback(log.close)
        return log

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with closing(Log(tmp_path)) as made:
        yield made


def started(log: CanaryLog, begin: int = 0) -> CanaryLog:
    log.start_step(BEGIN + begin)
    return log


def arms(poll: Poll) -> list[tuple[int, int, list[float], list[float], list[float]]]:
    return [
        (arm.requests, arm.failures, *(list(np.round(values, 9)) for values in _values(arm)))
        for arm in (poll.canary, poll.primary)
    ]


def _values(arm: Any) -> tuple[Any, ...]:
    return arm.latencies_ms, arm.predictions, arm.losses


def test_a_second_holds_what_both_versions_did_in_it(log: Log) -> None:
    log.answer("a", "1", 100_000, [0.25, 0.75], 0.02)
    log.answer("b", "2", 200_000, [0.5])
    log.fail("c", "2", 900_000)
    log.answer("other", "3", 300_000)
    log.answer("next", "2", 1_000_000)
    first, second = started(log.read()).polls(BEGIN + 2_000_000)
    assert first.end == BEGIN + POLL_MICROSECONDS
    assert arms(first) == [(2, 1, [10.0], [0.5], []), (1, 0, [20.0], [0.25], [])]
    assert arms(second) == [(1, 0, [10.0], [0.5], []), (0, 0, [], [], [])]


def test_a_second_that_is_not_over_waits(log: Log) -> None:
    tail = started(log.read())
    log.answer("a", "1", 500_000)
    assert list(tail.polls(BEGIN + 999_999)) == []
    log.answer("b", "1", 600_000)
    (poll,) = tail.polls(BEGIN + 1_000_000)
    assert poll.primary.requests == 2
    log.answer("late", "1", 700_000)
    (poll,) = tail.polls(BEGIN + 2_000_000)
    assert poll.primary.requests == 0, "it came after its second was taken"


def test_what_was_asked_before_the_step_is_left_out(log: Log) -> None:
    log.answer("before", "1", -100)
    log.answer("asked before", "1", 50_000, seconds=0.1)
    log.answer("asked after", "1", 60_000, seconds=0.05)
    (poll,) = started(log.read()).polls(BEGIN + 1_000_000)
    assert arms(poll)[1] == (1, 0, [50.0], [0.5], [])


def test_outcomes_become_losses_once(log: Log) -> None:
    tail = started(log.read())
    log.answer("a", "1", 20_000, [0.75, 0.1])
    log.answer("b", "2", 20_000, [0.5])
    log.outcome("a", 1.0)
    log.outcome("a", 0.0, row=1)
    (poll,) = tail.polls(BEGIN + 1_000_000)
    assert (list(poll.canary.losses), list(poll.primary.losses)) == ([], [0.0625])
    log.outcome("b", 0.0)
    log.outcome("a", 1.0)
    (poll,) = tail.polls(BEGIN + 2_000_000)
    assert (list(poll.canary.losses), list(poll.primary.losses)) == ([0.25], [])


def test_an_outcome_of_an_earlier_step_is_left_out(log: Log) -> None:
    tail = started(log.read())
    log.answer("a", "1", 20_000)
    list(tail.polls(BEGIN + 1_000_000))
    started(tail, 1_500_000)
    log.outcome("a", 1.0)
    log.answer("b", "1", 1_600_000)
    log.outcome("b", 1.0)
    (poll,) = tail.polls(BEGIN + 2_500_000)
    assert list(poll.primary.losses) == [0.25]


@pytest.mark.parametrize(("kind", "losses"), [("multiclass", [0.0, 1.0]), ("regression", [])])
def test_other_labels(tmp_path: Path, kind: str, losses: list[float]) -> None:
    with closing(Log(tmp_path, parse_spec(_document(kind)).data)) as log:
        values = ["mid", "low"] if kind == "multiclass" else [3.5, -1.0]
        for name, value in zip("ab", values, strict=True):
            log.answer(name, "1", 20_000, [value])
            log.outcome(name, "mid" if kind == "multiclass" else 1.0)
        (poll,) = started(log.read()).polls(BEGIN + 1_000_000)
        assert list(poll.primary.predictions) == ([1.0, 0.0] if kind == "multiclass" else [3.5, -1.0])
        assert list(poll.primary.losses) == losses


def test_a_positive_value_by_name() -> None:
    label = Label(column="y", kind="binary", positive="yes")
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(CanaryLog(Path(scratch), label, canary="2", primary="1", with_losses=True, since_seconds=1)) as log,
    ):
        assert [log._loss(0.75, value) for value in ("yes", "no")] == [0.0625, 0.5625]


_RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["answer", "fail"]),
        st.sampled_from(["1", "2", "3"]),
        st.integers(-500_000, 4_000_000),
        st.sampled_from([0.1, 0.5, 0.9]),
    ),
    max_size=25,
)


@settings(max_examples=25)
@given(_RECORDS, st.lists(st.integers(0, 25), max_size=4), st.lists(st.integers(0, 25), max_size=3))
def test_who_reads_it_later_makes_the_same_polls(
    records: list[tuple[str, str, int, float]], looks: list[int], rotations: list[int]
) -> None:
    """As long as records come in the order of their time, whenever one looks up to then."""
    records = sorted(records, key=lambda record: record[2])
    with tempfile.TemporaryDirectory() as scratch, closing(Log(Path(scratch))) as log:
        live, found = started(log.read()), []
        for number, (kind, version, at, value) in enumerate(records):
            if number in looks:
                found += list(live.polls(BEGIN + at))
            if number in rotations:
                log.rotate()
            if kind == "answer":
                log.answer(f"r{number}", version, at, [value])
            else:
                log.fail(f"r{number}", version, at)
        found += list(live.polls(BEGIN + 5_000_000))
        again = list(started(log.read()).polls(BEGIN + 5_000_000))
        assert [(poll.end, arms(poll)) for poll in found] == [(poll.end, arms(poll)) for poll in again]
        of_both = [at for _, version, at, _ in records if version != "3" and at >= 0]
        counted = sum(poll.canary.requests + poll.primary.requests for poll in again)
        assert sum(at >= 10_000 for at in of_both) <= counted <= len(of_both)
