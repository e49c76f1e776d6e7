"""The guard at work: watches each version that was just promoted, and has the one before serve again on a breach."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from millrace.approvals.thresholds import in_force
from millrace.guard import Traffic, judge
from millrace.ledger import Entry, Fact, Ledger
from millrace.log_tables import ANSWERS, FAILURES
from millrace.log_tail import LogTail
from millrace.logs import get_logger
from millrace.settings import Settings
from millrace.spec import GuardSpec, PipelineSpec
from millrace.spec.load import FILE_NAME, load_spec
from millrace.verdict import Verdict
from tasks.champion_pile import served_before
from tasks.rollback_requests import GUARD, RollbackRequest, new_id
from tasks.run_kinds import PROMOTED
from tasks.turns import each_in_turn

BREACHED = "guard_breached"

#: A closed segment may hold records that are older than it by so much.
_MARGIN_SECONDS = 60.0
_MICROSECONDS = 1_000_000


class VersionTraffic:
    """What one version answered and failed lately, read from the pipeline's inference log as it grows."""

    def __init__(self, folder: Path, version: str, since: datetime, window_seconds: float) -> None:
        self._version = version
        self._since = round(since.timestamp() * _MICROSECONDS)
        age = window_seconds + _MARGIN_SECONDS
        self._answers = LogTail(folder / ANSWERS, "answered_at", ("version", "seconds"), age)
        self._failures = LogTail(folder / FAILURES, "failed_at", ("version",), age)
        self._answered: deque[tuple[int, float]] = deque()
        self._failed: deque[int] = deque()

    def newest(self, now: datetime, window_seconds: float) -> Traffic:
        """Its requests of the newest window.

        Raises:
            DataError: a segment of the log is damaged.
        """
        for record in self._answers.new():
            if record["version"] == self._version and record["answered_at"] >= self._since:
                self._answered.append((record["answered_at"], record["seconds"]))
        for record in self._failures.new():
            if record["version"] == self._version and record["failed_at"] >= self._since:
                self._failed.append(record["failed_at"])
        start = round((now.timestamp() - window_seconds) * _MICROSECONDS)
        # Several replicas write, each in order: what is old goes wherever it stands.
        self._answered = deque(found for found in self._answered if found[0] >= start)
        self._failed = deque(moment for moment in self._failed if moment >= start)
        return Traffic(len(self._failed), [seconds for _, seconds in self._answered])

    def close(self) -> None:
        self._answers.close()
        self._failures.close()


@dataclass
class _Watched:
    """A serving entry under watch."""

    entry: Entry
    traffic: VersionTraffic


@dataclass
class GuardWatch:
    """A part of the reconciler. A breach and the request for a rollback are one transaction, once an entry of what
    serves: however often it is seen, by however many, one rollback comes of it."""

    settings: Settings
    ledger: Ledger
    clock: Callable[[], float] = time.time
    _watched: dict[str, _Watched] = field(default_factory=dict)
    _done: set[int] = field(default_factory=set)
    _specs: dict[str, tuple[int, PipelineSpec]] = field(default_factory=dict)

    def tick(self) -> None:
        """Judge each version that was promoted lately.

        Raises:
            DataError: a segment of an inference log is damaged; the others were judged.
            ConfigError: a pipeline.yaml cannot be read; likewise.
        """
        now = datetime.fromtimestamp(self.clock(), UTC)
        each_in_turn(self.ledger.all_serving(), lambda entry: self._look(entry, now))

    def close(self) -> None:
        """Let go of the logs."""
        for watched in self._watched.values():
            watched.traffic.close()
        self._watched.clear()

    def _look(self, entry: Entry, now: datetime) -> None:
        if not self._is_due(entry, now):
            if (watched := self._watched.pop(entry.pipeline, None)) is not None:
                watched.traffic.close()
            return
        spec = self._spec(entry.pipeline)
        verdict = judge(spec, self._traffic(entry, spec).newest(now, spec.window_seconds))
        if not verdict.passed:
            self._breach(entry, verdict)

    def _is_due(self, entry: Entry, now: datetime) -> bool:
        if entry.sequence in self._done:
            return False
        spec = self._spec(entry.pipeline)
        if not spec.enabled:
            return False
        if (now - entry.at).total_seconds() > spec.watch_minutes * 60 or not self._was_promoted(entry):
            self._done.add(entry.sequence)
            return False
        return True

    def _was_promoted(self, entry: Entry) -> bool:
        """Whether it serves for the first time; what a rollback brought back is not taken away again."""
        because = self.ledger.entry(entry.detail["because"])
        return because is not None and because.kind == PROMOTED

    def _traffic(self, entry: Entry, spec: GuardSpec) -> VersionTraffic:
        watched = self._watched.get(entry.pipeline)
        if watched is None or watched.entry.sequence != entry.sequence:
            if watched is not None:
                watched.traffic.close()
            folder = self.settings.state / "inference" / entry.pipeline
            traffic = VersionTraffic(folder, entry.subject, entry.at, spec.window_seconds)
            watched = self._watched[entry.pipeline] = _Watched(entry, traffic)
        return watched.traffic

    def _breach(self, entry: Entry, verdict: Verdict) -> None:
        name, version, once = entry.pipeline, entry.subject, str(entry.sequence)
        before = served_before(self.ledger, name)
        detail = {
            "serving": entry.sequence,
            "verdict": verdict.as_dict(),
            "back_to": None if before is None else before.subject,
        }
        facts = [Fact(name, BREACHED, version, detail, GUARD, once)]
        if before is not None:
            request = RollbackRequest(
                new_id(f"{GUARD}-{once}"),
                name,
                GUARD,
                to_version=before.subject,
                only_while=entry.sequence,
                reason="; ".join(verdict.reasons),
            )
            facts.append(request.fact())
        self.ledger.append(*facts)
        self._done.add(entry.sequence)
        told = {"pipeline": name, "version": version, "reasons": list(verdict.reasons)}
        if before is None:
            get_logger().error("the guard is breached, and no version served before: it serves on", **told)
        else:
            get_logger().error("the guard is breached: it is rolled back", **told, back_to=before.subject)

    def _spec(self, name: str) -> GuardSpec:
        folder = self.settings.pipelines / name
        changed = (folder / FILE_NAME).stat().st_mtime_ns if (folder / FILE_NAME).exists() else 0
        known = self._specs.get(name)
        if known is None or known[0] != changed:
            known = self._specs[name] = (changed, load_spec(folder))
        return in_force(self.ledger, known[1]).serving.guard
