"""What a canary and the primary did, second by second, read from the inference log as it grows.

A poll is a second of the log's own time, counted from where the step began, whenever somebody reads it: so whoever
reads the log again later makes the same polls of it. Only outcomes have no time of arrival in the log: read again, they
count with the answers that they belong to.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from millrace.canary.observations import Observations
from millrace.log_tables import ANSWERS, FAILURES, OUTCOMES
from millrace.log_tail import LogTail
from millrace.spec import Label

POLL_MICROSECONDS = 1_000_000

#: A closed segment may hold records that are older than it by so much.
_MARGIN_SECONDS = 60.0
#: Answers that wait for their outcomes, and outcomes whose answers are not there: the oldest go.
_MOST_WAITING = 200_000


@dataclass(frozen=True, slots=True)
class Poll:
    """One second that ended at `end` (microseconds since 1970)."""

    end: int
    canary: Observations
    primary: Observations


class _Request(NamedTuple):
    """A request that ended, in the order of its end; `latency` is None for one that failed. Times in microseconds."""

    at: int
    id: str
    number: int
    is_canary: bool
    latency: float | None = None
    prediction: Any = None


class CanaryLog:
    """The polls of two versions. Of a request with several rows its first row's prediction and loss are taken.

    A loss is (probability - outcome)^2 for a binary label, 1 for a wrong class and 0 for the right one. The error of a
    number has no bound, so regression has no losses. `with_losses`: whether outcomes are read at all.
    """

    def __init__(
        self, folder: Path, label: Label, *, canary: str, primary: str, with_losses: bool, since_seconds: float
    ) -> None:
        self._label = label
        self._arms = {canary: True, primary: False}
        age = since_seconds + _MARGIN_SECONDS
        self._answers = LogTail(folder / ANSWERS, "answered_at", ("version", "seconds", "prediction"), age)
        self._failures = LogTail(folder / FAILURES, "failed_at", ("version",), age)
        has_losses = with_losses and label.kind != "regression"
        self._outcomes = LogTail(folder / OUTCOMES, "known_at", ("row", "label"), age) if has_losses else None
        self._numbers = count()
        self._requests: list[_Request] = []
        self._begin = self._next = 0
        self._unlabelled: dict[str, _Request] = {}
        self._labels: dict[str, Any] = {}
        self._fresh: list[str] = []

    def start_step(self, begin: int) -> None:
        """Leave out what was asked before `begin` (microseconds since 1970): it was drawn at another share."""
        self._begin = self._next = begin
        self._unlabelled.clear()

    def polls(self, until: int) -> Iterator[Poll]:
        """The polls that end by `until`, each once; those not taken come again at the next call.

        Raises:
            DataError: a segment of the log is damaged; the next call goes on behind it.
        """
        self._read()
        while (end := self._next + POLL_MICROSECONDS) <= until:
            taken = [request for request in self._before(end) if self._is_of_step(request)]
            self._next = end
            losses = self._losses(taken)
            yield Poll(end, self._observed(True, taken, losses), self._observed(False, taken, losses))

    def close(self) -> None:
        """Let go of the log."""
        for tail in (self._answers, self._failures, self._outcomes):
            if tail is not None:
                tail.close()

    def _before(self, end: int) -> Iterator[_Request]:
        while self._requests and self._requests[0].at < end:
            yield heapq.heappop(self._requests)

    def _is_of_step(self, request: _Request) -> bool:
        # What came later than its poll is lost, in both arms alike.
        return request.at >= self._next and request.at - (request.latency or 0.0) >= self._begin

    def _read(self) -> None:
        for record in self._failures.new():
            self._add(record, record["failed_at"])
        for record in self._answers.new():
            self._add(record, record["answered_at"], record["seconds"] * 1e6, _first(record["prediction"]))
        for record in self._outcomes.new() if self._outcomes is not None else ():
            for request, row, label in zip(
                *(_all(record[name]) for name in ("request_id", "row", "label")), strict=True
            ):
                if row == 0:
                    self._labels[request] = label
                    self._fresh.append(request)
        _forget(self._labels)

    def _add(self, record: Mapping[str, Any], at: int, latency: float | None = None, prediction: Any = None) -> None:
        if (is_canary := self._arms.get(record["version"])) is not None:
            request = _Request(at, record["request_id"], next(self._numbers), is_canary, latency, prediction)
            heapq.heappush(self._requests, request)

    def _losses(self, taken: Sequence[_Request]) -> list[tuple[bool, float]]:
        """What can be compared by now: of which arm it is, and its loss."""
        if self._outcomes is None:
            return []
        for request in taken:
            if request.latency is not None:
                self._unlabelled[request.id] = request
        _forget(self._unlabelled)
        found = []
        for name in dict.fromkeys([*(request.id for request in taken), *self._fresh]):
            if name in self._unlabelled and name in self._labels:
                request, outcome = self._unlabelled.pop(name), self._labels.pop(name)
                found.append((request.is_canary, self._loss(request.prediction, outcome)))
        self._fresh = []
        return found

    def _loss(self, prediction: Any, outcome: Any) -> float:
        if self._label.kind == "multiclass":
            return float(prediction != outcome)
        truth = float(outcome) if self._label.positive is None else float(outcome == self._label.positive)
        return min(1.0, (float(prediction) - truth) ** 2)

    def _observed(
        self, is_canary: bool, taken: Sequence[_Request], losses: Sequence[tuple[bool, float]]
    ) -> Observations:
        mine = [request for request in taken if request.is_canary is is_canary]
        answered = [request for request in mine if request.latency is not None]
        return Observations(
            requests=len(mine),
            failures=len(mine) - len(answered),
            latencies_ms=np.array([(request.latency or 0.0) / 1e3 for request in answered]),
            predictions=np.array([self._number(request.prediction) for request in answered]),
            losses=np.array([loss for of_canary, loss in losses if of_canary is is_canary]),
        )

    def _number(self, prediction: Any) -> float:
        classes = self._label.classes
        if not classes:
            return float(prediction)
        return float(classes.index(prediction)) if prediction in classes else -1.0


def _first(value: Any) -> Any:
    """A line of an open segment holds columns, a closed segment's record one row."""
    return value[0] if isinstance(value, list) else value


def _all(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _forget(waiting: dict[str, Any]) -> None:
    while len(waiting) > _MOST_WAITING:
        del waiting[next(iter(waiting))]
