"""What a pipeline's replicas serve: the primary, versions beside it, and who is answered by which."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from millrace.errors import ConfigError
from millrace.traffic_rules import TrafficRules
from ray_jobs.serve.versions import Target

_BESIDE = "beside"


@dataclass(frozen=True)
class TrafficPlan:
    """The versions that answer, and the rules by which they do.

    As a dict it is the deployment's `user_config`: the primary's keys as if it were alone, so that who looks for what
    serves need not know of others, and the rest as one text. Two plans that only differ in their tokens are equal.

    Raises:
        ConfigError: the rules name a version that is not in it.
    """

    primary: Target
    others: tuple[Target, ...]
    rules: TrafficRules

    def __post_init__(self) -> None:
        if lost := self.rules.versions - {target.version for target in self.targets}:
            raise ConfigError(
                "the traffic is to be answered by versions that are not served",
                got=", ".join(sorted(lost)),
                allowed=", ".join(target.version for target in self.targets),
            )

    @classmethod
    def alone(cls, primary: Target) -> Self:
        """All requests to `primary`."""
        return cls(primary, (), TrafficRules.only(primary.version))

    @classmethod
    def of(cls, primary: Target, others: Iterable[Target], rules: TrafficRules) -> Self:
        """The plan by these rules; of `others` those that answer somebody, under the token of `primary`."""
        known = rules.for_replicas(primary.version)
        beside = sorted(
            (replace(target, token=primary.token) for target in others if target.version in known.answering),
            key=lambda target: target.version,
        )
        return cls(primary, tuple(target for target in beside if target.version != primary.version), known)

    @classmethod
    def from_config(cls, config: Mapping[str, str]) -> Self:
        """The plan that `as_config` gave; a target's config is the plan of that target alone."""
        primary = Target.from_config(config)
        if _BESIDE not in config:
            return cls.alone(primary)
        beside = json.loads(config[_BESIDE])
        others = tuple(Target.from_config(other | {"token": str(primary.token)}) for other in beside["others"])
        return cls(primary, others, TrafficRules.from_json(beside["rules"]))

    def as_config(self) -> dict[str, str]:
        config = self.primary.as_config()
        if self.is_alone:
            return config
        others = [{key: value for key, value in asdict(other).items() if key != "token"} for other in self.others]
        return config | {_BESIDE: json.dumps({"others": others, "rules": self.rules.as_json()}, sort_keys=True)}

    @property
    def targets(self) -> tuple[Target, ...]:
        """All versions, the primary first."""
        return (self.primary, *self.others)

    @property
    def is_alone(self) -> bool:
        """Whether the primary answers all requests by no rule at all."""
        return not self.others and self.rules.is_only(self.primary.version)

    @property
    def token(self) -> int:
        """The token of who says so."""
        return self.primary.token

    def described(self) -> dict[str, Any]:
        """What people and the reconciler are told of it; who is pinned is told to nobody here."""
        return {
            "versions": {target.version: target.package_digest for target in self.targets},
            "shares": self.rules.division.shares,
            "sticky": self.rules.sticky,
            "pins": len(self.rules.pins),
            "canary": self.rules.canary and self.rules.canary.as_json(),
            "rules": self.rules.digest,
        }

    def __str__(self) -> str:
        beside = ", ".join(target.version for target in self.others)
        return f"version {self.primary.version}" + (f" beside {beside}" if beside else "")


#: What may be asked for where a plan is.
Served = Target | TrafficPlan


def plan_of(served: Served) -> TrafficPlan:
    """A target alone is a plan, too."""
    return TrafficPlan.alone(served) if isinstance(served, Target) else served
