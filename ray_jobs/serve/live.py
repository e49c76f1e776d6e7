"""The versions of a plan that answer in one replica, replaced as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from millrace.errors import PackageError
from millrace.log_writer import LogWriter
from ray_jobs.serve.plan import TrafficPlan
from ray_jobs.serve.serving import Serving, serving_with_logs
from ray_jobs.serve.versions import LoadedVersion, Target


@dataclass(frozen=True, eq=False)
class Live:
    """A plan with what answers by it."""

    plan: TrafficPlan
    servings: Mapping[str, Serving]

    @cached_property
    def primary(self) -> Serving:
        return self.servings[self.plan.primary.version]

    @cached_property
    def is_single(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.servings) == 1

    def named(self, version: str | None) -> Serving:
        """What `version` names among those that anybody may ask for; the primary for any other name.

        A canary's own requests must be random draws, so nobody asks for it by name.
        """
        rules = self.plan.rules
        if version is None or not (version in rules.division.shares or version in rules.pins.values()):
            return self.primary
        return self.servings[version]

    def serving_of(self, customer: str, session: str, request_id: str, draw: float) -> Serving:
        """What answers a request; the arguments as in `TrafficRules.version_of`."""
        if self.is_single:
            return self.primary
        return self.servings[self.plan.rules.version_of(customer, session, request_id, draw)]

    def loaded(self, target: Target) -> LoadedVersion | None:
        """The version that `target` names, where it is here."""
        found = self.servings.get(target.version)
        return found.version if found is not None and found.version.target == target else None

    def gone_since(self, before: Live) -> list[Serving]:
        """What answered before, and does no more."""
        return [serving for serving in before.servings.values() if serving not in self.servings.values()]


def logs_of(servings: Iterable[Serving]) -> set[LogWriter]:
    """The logs that they write to; some share theirs."""
    return {log for serving in servings for log in (serving.answers, serving.outcomes)}


def live_with_logs(
    plan: TrafficPlan, loaded: Mapping[Target, LoadedVersion], folder: Path, before: Live | None
) -> Live:
    """`plan` with what serves already and the versions that were `loaded` for it, and logs below `folder`."""
    servings: dict[str, Serving] = {}
    for target in plan.targets:
        kept = before.servings.get(target.version) if before is not None else None
        if kept is None or kept.version.target != target:
            like = next(iter(servings.values()), before.primary if before is not None else None)
            kept = serving_with_logs(loaded[target], folder, like)
        servings[target.version] = kept
    batchers = [serving.version.batcher for serving in servings.values()]
    for batcher in batchers:
        batcher.peers = tuple(other for other in batchers if other is not batcher)
    return Live(plan, servings)


def require_same_requests(primary: LoadedVersion, other: LoadedVersion) -> None:
    """Make sure that `other` takes the requests that `primary` takes, and answers alike: callers know of one contract.

    Raises:
        PackageError: it does not; the message names what differs first.
    """
    ours, theirs = _promises(primary), _promises(other)
    if differing := next((name for name in [*ours, *theirs] if ours.get(name) != theirs.get(name)), None):
        raise PackageError(
            f"version {other.target.version} cannot answer beside version {primary.target.version}: "
            f"they differ in {differing}",
            got=theirs.get(differing, "absent"),
            allowed=str(ours.get(differing, "absent")),
            next="let it serve alone (promote it), or train a version with the same contract",
        )


def _promises(version: LoadedVersion) -> dict[str, Any]:
    """What callers are promised, by the field of the spec that says so; what only describes is no promise."""
    spec = version.predictor.spec
    label = spec.table.label
    features = {
        f"data.features.{name}": feature.model_dump(exclude={"description"})
        for name, feature in spec.table.features.items()
    }
    return {
        "data.event_time": spec.table.event_time,
        "data.row_id": spec.table.row_id,
        **features,
        "data.label.kind": label.kind,
        "data.label.classes": label.classes,
        "data.label.positive": label.positive,
        "serving.max_rows": spec.serving.max_rows,
        "serving.max_body_bytes": spec.serving.max_body_bytes,
    }
