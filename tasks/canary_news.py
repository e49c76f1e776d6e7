"""What a person sees of a rollout in the Prefect UI while it goes on: an artifact, the newest of which tells of now."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from millrace.canary import Finding, RolloutDecision, Standing
from millrace.canary.findings import UNDECIDED
from millrace.canary.watch import CanaryWatch
from millrace.ledger import Entry
from millrace.logs import get_logger
from millrace.rollouts import Rollout
from millrace.spec.rollout import CanaryMetric
from tasks import artifacts

PART = "canary"

#: Seconds between two artifacts in which nothing but numbers has changed.
PAUSE_SECONDS = 15.0


class CanaryNews:
    """Told of each look, it publishes what is news. A Prefect server that hangs keeps nobody from judging: it is asked
    by a thread of its own, and what is news meanwhile comes with the next artifact."""

    def __init__(self, pipeline: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._pipeline, self._clock = pipeline, clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="canary-news")
        self._future: Future[None] | None = None
        self._standings: dict[CanaryMetric, tuple[Standing, bool]] = {}
        self._told: object = None
        self._at = float("-inf")

    def tell(self, rollout: Rollout, watch: CanaryWatch, decision: RolloutDecision) -> None:
        """Publish where it stands, if that is news."""
        findings = watch.test.findings()
        standings = {found.metric: (found.standing, found.suspected) for found in findings}
        for found in findings:
            if standings[found.metric] != self._standings.get(found.metric, (UNDECIDED, False)):
                get_logger().info(found.reason, e_value=f"{found.e_value:.3g}")
        self._standings = standings
        news = (watch.test.step, decision.move, standings)
        if (news == self._told and self._clock() - self._at < PAUSE_SECONDS) or not self._is_free:
            return
        self._told, self._at = news, self._clock()
        number, steps = watch.test.step, rollout.spec.steps
        told = f"step {number + 1} of {len(steps)}, {steps[number].share:.2%} of the requests"
        self._publish(f"Version {rollout.version}: {told}", described(rollout, told, decision.reason, findings))

    def end(self, rollout: Rollout, ended: Entry) -> None:
        """Publish how it ended."""
        told = f"{ended.detail['outcome']} by {ended.actor}"
        findings = []
        if rollout.decisions:
            tests = rollout.decisions[max(rollout.decisions)].detail["verdict"]["evidence"]["tests"]
            findings = [Finding(**found) for found in tests.values()]
        reason = "; ".join(ended.detail["reasons"])
        self._publish(f"Version {rollout.version}: {told}", described(rollout, told, reason, findings))

    def close(self) -> None:
        """Return when what was published is with Prefect."""
        self._pool.shutdown()

    @property
    def _is_free(self) -> bool:
        return self._future is None or self._future.done()

    def _publish(self, description: str, markdown: str) -> None:
        self._future = self._pool.submit(copy_context().run, _note, self._pipeline, description, markdown)


def _note(pipeline: str, description: str, markdown: str) -> None:
    try:
        artifacts.note(pipeline, PART, description, markdown)
    except Exception as error:  # noqa: BLE001 - what is shown in the UI is no reason to end a rollout
        get_logger().warning("the UI does not show where the rollout stands", error=str(error))


def described(rollout: Rollout, told: str, reason: str, findings: list[Finding]) -> str:
    """Where a rollout stands, in Markdown."""
    rows = []
    for number, step in enumerate(rollout.spec.steps):
        given, decision = rollout.shares.get(number), rollout.decisions.get(number)
        since = "" if given is None else f"{given.at:%Y-%m-%d %H:%M:%S}"
        rows.append(
            [str(number + 1), f"{step.share:.2%}", since, "" if decision is None else decision.detail["reason"]]
        )
    tests = [
        [
            found.metric,
            found.standing + (", suspected" if found.suspected else ""),
            f"{found.e_value:.3g}",
            f"{1 / found.alpha:,.0f}",
            _number(found.observed),
            _number(found.threshold),
            f"{found.num_canary:,} and {found.num_primary:,}",
        ]
        for found in findings
    ]
    heads = ["test", "standing", "e-value", "a breach at", "observed", "allowed", "requests compared"]
    return f"""# Version {rollout.version} beside version {rollout.champion}: {told}

{reason}

{artifacts.table(heads, tests) if tests else ""}

{artifacts.table(["step", "share", "since (UTC)", "decided"], rows)}

Cancelled, the traffic stays as it is. `millrace rollout {rollout.pipeline} --resume` goes on, `--stop` takes version
{rollout.version} off.
"""


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"
