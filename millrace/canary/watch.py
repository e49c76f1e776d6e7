"""Watching one rollout: the inference log's polls into its tests. Whoever watches it later sees the same."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from millrace.canary.judgement import CanaryTest
from millrace.canary.polls import CanaryLog
from millrace.canary.rollout import RolloutDecision, decide
from millrace.rollouts import Rollout, microseconds
from millrace.spec import Label

#: A poll is taken when it has been over for so long: replicas write one after the other.
_LAG_MICROSECONDS = 300_000
#: From the ledger's entry of a share, which is written when all replicas answer by it, to the first request that
#: counts: their clocks may differ.
_SETTLE_MICROSECONDS = 500_000


class CanaryWatch:
    """The tests of `rollout`, brought to the step that is on its way by what the log below `folder` holds of the steps
    before it. So nothing of it need be kept: at any moment it is what it would be had it been watched from the start.
    """

    def __init__(self, rollout: Rollout, label: Label, folder: Path) -> None:
        self.rollout = rollout
        self.test = CanaryTest(rollout.spec)
        #: To where the log was taken in, in microseconds since 1970.
        self.until = 0
        self._begin = 0
        self._step = -1
        age = datetime.now(rollout.begun.at.tzinfo) - rollout.begun.at
        self._log = CanaryLog(
            folder,
            label,
            canary=rollout.version,
            primary=rollout.champion,
            with_losses="quality" in rollout.spec.tests,
            since_seconds=age.total_seconds(),
        )

    def enter(self, rollout: Rollout, step: int) -> None:
        """Go on to `step`, whose share was given, through all before it.

        Raises:
            DataError: a segment of the log is damaged; called again, it goes on behind it.
        """
        if self._step < 0:
            self._start(rollout, 0)
        while self._step < step:
            # Nothing is left of a step that was watched from here.
            for poll in self._log.polls(int(rollout.decisions[self._step].detail["until"])):
                self.test.update(poll.canary, poll.primary)
            self._start(rollout, self._step + 1)

    def look(self, now: float) -> RolloutDecision:
        """What to do at `now` (seconds since 1970), by all that was answered until then.

        Raises:
            DataError: a segment of the log is damaged; the next look goes on behind it.
        """
        for poll in self._log.polls(round(now * 1e6) - _LAG_MICROSECONDS):
            self.test.update(poll.canary, poll.primary)
            self.until = poll.end
            decision = self._decide()
            if decision.move != "hold":
                return decision
        return self._decide()

    @property
    def without_data(self) -> list[str]:
        """The tests that had nothing to compare."""
        return [finding.metric for finding in self.test.findings() if not finding.num_canary]

    def close(self) -> None:
        """Let go of the log."""
        self._log.close()

    def _start(self, rollout: Rollout, step: int) -> None:
        self._begin = self.until = microseconds(rollout.shares[step].at) + _SETTLE_MICROSECONDS
        self._log.start_step(self._begin)
        if step:
            self.test.start_step()
        self._step = step

    def _decide(self) -> RolloutDecision:
        return decide(self.rollout.spec, self.test, (self.until - self._begin) / 1e6)
