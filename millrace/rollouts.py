"""A rollout as the ledger has it: begun, given one share after another, decided step by step, ended.

Nothing else of it is kept. What was observed is in the inference log, and is read from there again by whoever goes on
(`millrace.canary.watch`). Light to import: the reconciler and the command line read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from millrace.canary.rollout import RolloutDecision
from millrace.errors import ConflictError
from millrace.ledger import TRAFFIC, Entry, Fact, Ledger, Token
from millrace.ledger.journal import sound
from millrace.spec.rollout import RolloutSpec
from millrace.traffic_rules import TrafficRules

BEGUN = "rollout_begun"
DECIDED = "rollout_decided"
ENDED = "rollout_ended"

#: promoted: it serves. rejected: a test was breached. superseded: something else was decided meanwhile. stopped: by a
#: person. failed: it could not be given any traffic.
Outcome = Literal["promoted", "rejected", "superseded", "stopped", "failed"]


@dataclass(frozen=True)
class Rollout:
    """One rollout. `shares` and `decisions` are entries by the number of the step, from 0."""

    begun: Entry
    shares: Mapping[int, Entry] = field(default_factory=dict)
    decisions: Mapping[int, Entry] = field(default_factory=dict)
    ended: Entry | None = None

    @property
    def id(self) -> int:
        """The number of the entry by which it began."""
        return self.begun.sequence

    @property
    def pipeline(self) -> str:
        return self.begun.pipeline

    @property
    def version(self) -> str:
        """The canary."""
        return self.begun.subject

    @property
    def package(self) -> str:
        """The canary's digest."""
        return str(self.begun.detail["package"])

    @property
    def champion(self) -> str:
        """The version it is compared with."""
        return str(self.begun.detail["champion"])

    @property
    def serving(self) -> int:
        """The entry by which the champion serves."""
        return int(self.begun.detail["serving"])

    @property
    def promotion(self) -> Mapping[str, Any]:
        """Why the canary asks to serve: what its promotion says in the end."""
        promotion: Mapping[str, Any] = self.begun.detail["promotion"]
        return promotion

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it goes on."""
        return None if self.ended is None else self.ended.detail["outcome"]

    @cached_property
    def spec(self) -> RolloutSpec:
        """The rules that it began with; what pipeline.yaml says by now is of no account.

        Raises:
            DigestError: the entry does not hold what it should.
        """
        with sound():
            return RolloutSpec.model_validate(self.begun.detail["rules"])

    def decision(self, step: int) -> RolloutDecision | None:
        """What was decided at the end of `step`."""
        found = self.decisions.get(step)
        return None if found is None else RolloutDecision(found.detail["move"], found.detail["reason"])

    def once(self, part: int | Literal["off", "promoted", "end"]) -> str:
        """The name of a change that it makes, the same in each life of its flow run: of a step, or at its end."""
        return f"rollout-{self.id}:{part}"


def newest(ledger: Ledger, pipeline: str, version: str | None = None) -> Rollout | None:
    """The rollout that began last, of `version` or of any; None when there never was one."""
    found = [entry for entry in ledger.entries(pipeline, BEGUN) if version in (None, entry.subject)]
    return _read(ledger, found[-1]) if found else None


def find(ledger: Ledger, pipeline: str, version: str | None = None) -> Rollout:
    """As `newest`.

    Raises:
        ConflictError: there never was one.
    """
    found = newest(ledger, pipeline, version)
    if found is None:
        what = f"version {version} of '{pipeline}'" if version else f"a version of '{pipeline}'"
        raise ConflictError(
            f"no rollout of {what} has begun",
            next="add a `rollout` section to its pipeline.yaml; the next version that is better is rolled out by it",
        )
    return found


def again(ledger: Ledger, rollout: Rollout) -> Rollout:
    """The same rollout, as the ledger has it by now."""
    return _read(ledger, rollout.begun)


def going_on(ledger: Ledger, pipeline: str | None = None) -> list[Entry]:
    """The entries of the rollouts that have begun and not ended, oldest first."""
    entries = ledger.entries(pipeline, BEGUN, ENDED)
    ended = {entry.detail["rollout"] for entry in entries if entry.kind == ENDED}
    return [entry for entry in entries if entry.kind == BEGUN and entry.sequence not in ended]


def begin(
    ledger: Ledger, version: str, champion: Entry, spec: RolloutSpec, promotion: Mapping[str, Any], token: Token
) -> Rollout:
    """Begin the rollout of `version` beside `champion`, an entry of what serves; one that goes on is superseded.

    There is one of a version beside one entry of a champion: said again, it is found. Only one that was superseded or
    stopped, of which nothing was found against the version, may begin anew.

    Raises:
        FencedError: `token` no longer holds.
    """
    before = [_read(ledger, entry) for entry in ledger.entries(token.pipeline, BEGUN, subject=version)]
    anew = sum(one.serving == champion.sequence and one.outcome in ("superseded", "stopped") for one in before)
    detail = {
        "package": promotion["package"],
        "champion": champion.subject,
        "serving": champion.sequence,
        "rules": spec.model_dump(mode="json"),
        "promotion": dict(promotion),
    }
    once = f"{version}:{champion.sequence}:{anew}"
    facts = [Fact(token.pipeline, BEGUN, version, detail, token.holder, once)]
    facts += [
        ending(
            _read(ledger, other), "superseded", token.holder, [f"version {version} is better, and was trained later"]
        )
        for other in going_on(ledger, token.pipeline)
        if (other.subject, other.detail["serving"]) != (version, champion.sequence)
    ]
    return _read(ledger, ledger.append(*facts, token=token)[0][0])


def decided(
    rollout: Rollout, step: int, decision: RolloutDecision, until: int, verdict: Mapping[str, Any], run: str
) -> Fact:
    """The entry of what was decided at the end of `step`, by what was answered `until` then (us since 1970)."""
    detail = {
        "rollout": rollout.id,
        "step": step,
        "move": decision.move,
        "reason": decision.reason,
        "until": until,
        "verdict": dict(verdict),
    }
    return Fact(rollout.pipeline, DECIDED, rollout.version, detail, run, rollout.once(step))


def ending(rollout: Rollout, outcome: Outcome, by: str, reasons: Sequence[str]) -> Fact:
    """The entry that ends it; the first stays."""
    detail = {"rollout": rollout.id, "outcome": outcome, "reasons": list(reasons)}
    return Fact(rollout.pipeline, ENDED, rollout.version, detail, by, rollout.once("end"))


def overtaken(ledger: Ledger, rollout: Rollout) -> str | None:
    """What somebody else has decided meanwhile, so that this rollout has nothing to say any more; None: nothing."""
    now = again(ledger, rollout)
    if now.ended is not None:
        return f"{now.ended.detail['outcome']} by {now.ended.actor}: {'; '.join(now.ended.detail['reasons'])}"
    serving = ledger.serving(rollout.pipeline)
    if serving is None or serving.sequence != rollout.serving:
        return _told(ledger, serving)
    record = ledger.traffic(rollout.pipeline)
    if now.shares and (record is None or not _is_ours(record.rules, now)):
        return f"the traffic was changed by {'nobody' if record is None else record.entry.actor}"
    return None


def has_share(ledger: Ledger, rollout: Rollout) -> bool:
    """Whether the canary answers somebody by its draw, and no later rollout has a say in it."""
    record, last = ledger.traffic(rollout.pipeline), ledger.newest(rollout.pipeline, BEGUN)
    if record is None or record.entry.detail["serving"] != rollout.serving or last != rollout.begun:
        return False
    canary = record.rules.canary
    return canary is not None and canary.version == rollout.version


def microseconds(moment: datetime) -> int:
    """As the inference log counts them."""
    return round(moment.timestamp() * 1_000_000)


def _is_ours(rules: TrafficRules, rollout: Rollout) -> bool:
    """Whether requests are drawn as by the newest step, and all others are the champion's; a shadow answers nobody."""
    canary = rules.canary
    return (
        canary is not None
        and canary.as_json() == [rollout.version, rollout.spec.steps[max(rollout.shares)].share]
        and rules.answering == {rollout.champion, rollout.version}
        and set(rules.division.shares) == {rollout.champion}
        and not rules.pins
    )


def _told(ledger: Ledger, serving: Entry | None) -> str:
    cause = None if serving is None else ledger.entry(int(serving.detail["because"]))
    if serving is None or cause is None:
        return "nothing serves"
    return f"version {serving.subject} serves by now, {cause.kind.replace('_', ' ')} by {cause.actor}"


def _read(ledger: Ledger, begun: Entry) -> Rollout:
    shares: dict[int, Entry] = {}
    decisions: dict[int, Entry] = {}
    ended = None
    entries = ledger.entries(begun.pipeline, DECIDED, ENDED, TRAFFIC)
    with sound():
        for entry in entries:
            detail = entry.detail
            if entry.kind == TRAFFIC:
                name, _, part = str(detail["once"]).partition(":")
                if name == f"rollout-{begun.sequence}" and part.isdecimal():
                    shares[int(part)] = entry
            elif detail["rollout"] != begun.sequence:
                continue
            elif entry.kind == DECIDED:
                decisions[int(detail["step"])] = entry
            else:
                ended = entry
    return Rollout(begun, shares, decisions, ended)
