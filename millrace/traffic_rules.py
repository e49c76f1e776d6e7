"""Who is answered by which version while several answer at once: shares, pins, a canary, a shadow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self, get_args

from millrace.errors import ConfigError
from millrace.keys import LOCAL
from millrace.storage import digest_json
from millrace.traffic import RING, Division

#: What keeps requests together: the session that a request names (else its customer), its customer, or nothing.
Sticky = Literal["session", "customer", "request"]
STICKY: tuple[Sticky, ...] = get_args(Sticky)

#: Customers that are nobody in particular: who asks without a key, and who has the key of one's own machine.
_NOBODY = frozenset({"", LOCAL})


@dataclass(frozen=True, slots=True)
class VersionShare:
    """A share of the requests, from 0 to 1, for one version.

    Raises:
        ConfigError: no such share.
    """

    version: str
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(
                f"version {self.version} cannot have this share", got=self.share, allowed="a number from 0 to 1"
            )

    def as_json(self) -> list[Any]:
        return [self.version, self.share]


@dataclass(frozen=True)
class TrafficRules:
    """What decides which version answers a request: a pin, else the canary's draw, else the division.

    `division`: who stays together (`sticky`) has one place on it. `pins`: customer -> version. `canary` is drawn anew
    for each request that no pin holds, so that its requests are independent draws. `shadow` answers nobody: it is
    asked again what others have answered.
    """

    division: Division
    sticky: Sticky = "session"
    pins: Mapping[str, str] = field(default_factory=dict)
    canary: VersionShare | None = None
    shadow: VersionShare | None = None

    @classmethod
    def only(cls, version: str) -> Self:
        """All requests to `version`."""
        return cls(Division.whole(version))

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `as_json` gave; KeyError, TypeError, ValueError or ConfigError where it is damaged."""
        division = Division.from_json(found["division"])
        ends = [0, *(arc.end for arc in division.arcs)]
        if ends != sorted(set(ends)) or ends[-1] != RING or found["sticky"] not in STICKY:
            raise ValueError(f"no rules of traffic: {found}")
        canary, shadow = (VersionShare(*found[name]) if found[name] else None for name in ("canary", "shadow"))
        return cls(division, found["sticky"], dict(found["pins"]), canary, shadow)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON. The pins are a list: a customer's name is no field's."""
        return {
            "division": self.division.as_json(),
            "sticky": self.sticky,
            "pins": sorted([customer, version] for customer, version in self.pins.items()),
            "canary": self.canary and self.canary.as_json(),
            "shadow": self.shadow and self.shadow.as_json(),
        }

    @cached_property
    def digest(self) -> str:
        """The same for the same rules."""
        return digest_json(self.as_json())

    def for_replicas(self, primary: str) -> TrafficRules:
        """What replicas need to know of: no shadow, and nothing where all goes to the `primary` anyway."""
        known = replace(self, shadow=None)
        return TrafficRules.only(primary) if known.is_only(primary) else known

    @cached_property
    def answering(self) -> frozenset[str]:
        """The versions that answer somebody."""
        return frozenset({*self.division.shares, *self.pins.values(), *([self.canary.version] if self.canary else ())})

    @property
    def versions(self) -> frozenset[str]:
        """Those, and the shadow."""
        return self.answering | ({self.shadow.version} if self.shadow else frozenset())

    def is_only(self, version: str) -> bool:
        """Whether all of it goes to `version`, and no customer is pinned, and nothing is mirrored."""
        return self.answering == {version} and not self.pins and self.canary is None and self.shadow is None

    @property
    def shares(self) -> dict[str, float]:
        """Version -> its share of the requests that no pin holds."""
        drawn = self.canary.share if self.canary is not None else 0.0
        shares = {version: share * (1 - drawn) for version, share in self.division.shares.items()}
        if self.canary is not None:
            shares[self.canary.version] = shares.get(self.canary.version, 0.0) + drawn
        return shares

    def pinned(self, customer: str) -> str | None:
        """The version that `customer` is pinned to, or None."""
        return self.pins.get(customer) if self.pins else None

    def cohort(self, customer: str, session: str, request_id: str) -> str:
        """Whom a request stays together with; `session` is empty where it names none."""
        if self.sticky != "request":
            if session and self.sticky == "session":
                # Two customers may name their sessions alike.
                return f"{customer}\0{session}"
            if customer not in _NOBODY:
                return customer
        return request_id

    def version_of(self, customer: str, session: str, request_id: str, draw: float) -> str:
        """The version that answers a request; `draw` is its own random number, uniform in [0, 1)."""
        if (pinned := self.pinned(customer)) is not None:
            return pinned
        if self.canary is not None and draw < self.canary.share:
            return self.canary.version
        return self.division.version_of(self.cohort(customer, session, request_id))


@dataclass(frozen=True)
class TrafficChange:
    """What somebody wants to be otherwise; None and empty: as it was.

    `only`: all requests to this version, before the rest is looked at. `shares`: of all versions in the division.
    `pins`: customer -> version, or None to let it go. `canary`, `shadow`: a share of 0 ends it.
    """

    only: str | None = None
    shares: Mapping[str, float] | None = None
    sticky: Sticky | None = None
    pins: Mapping[str, str | None] = field(default_factory=dict)
    canary: VersionShare | None = None
    shadow: VersionShare | None = None

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `as_json` gave."""
        canary, shadow = (VersionShare(*found[name]) if found[name] else None for name in ("canary", "shadow"))
        shares = None if found["shares"] is None else dict(found["shares"])
        return cls(found["only"], shares, found["sticky"], dict(found["pins"]), canary, shadow)

    def as_json(self) -> dict[str, Any]:
        return {
            "only": self.only,
            "shares": None if self.shares is None else sorted([*item] for item in self.shares.items()),
            "sticky": self.sticky,
            "pins": sorted(([*item] for item in self.pins.items()), key=str),
            "canary": self.canary and self.canary.as_json(),
            "shadow": self.shadow and self.shadow.as_json(),
        }

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing, whatever the rules are."""
        return self == TrafficChange()

    def of(self, rules: TrafficRules) -> TrafficRules:
        """The rules after the change. Nobody changes version who need not.

        Raises:
            ConfigError: the shares are no division, or a customer is let go that has no pin.
        """
        division, pins, canary, shadow = rules.division, dict(rules.pins), rules.canary, rules.shadow
        if self.only is not None:
            division, pins, canary, shadow = division.moved({self.only: 1.0}), {}, None, None
        if self.shares is not None:
            division = division.moved(self.shares)
        for customer, version in self.pins.items():
            if version is not None:
                pins[customer] = version
            elif pins.pop(customer, None) is None and self.only is None:
                raise ConfigError(
                    f"customer {customer} is not pinned",
                    allowed=", ".join(sorted(pins)) or "none is",
                    next="look at `millrace traffic NAME`",
                )
        return TrafficRules(
            division, self.sticky or rules.sticky, pins, _changed(canary, self.canary), _changed(shadow, self.shadow)
        )


def _changed(before: VersionShare | None, wanted: VersionShare | None) -> VersionShare | None:
    if wanted is None:
        return before
    return wanted if wanted.share else None
