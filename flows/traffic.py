"""`millrace traffic`: which versions answer whom, shown and changed. Light to import, as `flows.roll_back`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from flows.person import person
from flows.roll_back import see_through
from millrace.errors import ConfigError, ConflictError
from millrace.ledger import Ledger
from millrace.settings import Settings
from millrace.spec.load import require_served
from millrace.traffic_rules import STICKY, TrafficChange, TrafficRules, VersionShare
from tasks.rollback_requests import new_id
from tasks.traffic_requests import TrafficRequest


def show_traffic(settings: Settings, name: str) -> dict[str, Any]:
    """The rules by which versions answer, as the ledger has them.

    Raises:
        UnknownNameError: there is no such pipeline.
        ConflictError: it serves no version.
    """
    require_served(name, settings.pipelines)
    return _shown(Ledger(settings.ledger), name)


def run_traffic(settings: Settings, name: str, change: TrafficChange) -> dict[str, Any]:
    """Change the rules; returns once all replicas answer by them.

    Raises:
        MillraceError: it cannot be done; nothing has changed.
    """
    require_served(name, settings.pipelines)
    ledger = Ledger(settings.ledger)
    # What cannot be is told at once, and by a later look at the ledger again.
    change.of(_rules(ledger, name)[1])
    request = TrafficRequest(new_id(what="traffic"), name, person(), change)

    def perform() -> dict[str, Any]:
        from tasks.traffic import perform

        return perform(request)

    outcome = see_through(ledger, request, perform, "changing the traffic")
    return _shown(ledger, name) | outcome


def change_of(
    shares: Iterable[str] = (),
    pins: Iterable[str] = (),
    unpinned: Iterable[str] = (),
    shadow: str | None = None,
    only: str | None = None,
    sticky: str | None = None,
) -> TrafficChange:
    """The change that options of the command line ask for.

    Raises:
        ConfigError: an option cannot be read.
    """
    if sticky is not None and sticky not in STICKY:
        raise ConfigError(
            "--sticky names nothing that keeps requests together",
            got=sticky,
            allowed=", ".join(STICKY),
            next="choose one of them",
        )
    wanted = _once("--share", [_share("--share", text) for text in shares])
    pinned: dict[str, str | None] = dict(_once("--pin", [_pair("--pin", text, "CUSTOMER=VERSION") for text in pins]))
    for customer in unpinned:
        if pinned.setdefault(customer, None) is not None:
            raise ConfigError(f"customer {customer} cannot be pinned and let go at once", next="choose one of them")
    mirrored = None if shadow is None else VersionShare(*_share("--shadow", shadow))
    return TrafficChange(only, wanted or None, sticky, pinned, shadow=mirrored)


def _shown(ledger: Ledger, name: str) -> dict[str, Any]:
    version, rules = _rules(ledger, name)
    return {
        "pipeline": name,
        "version": version,
        "shares": rules.division.shares,
        "sticky": rules.sticky,
        "pins": dict(sorted(rules.pins.items())),
        "canary": rules.canary and asdict(rules.canary),
        "shadow": rules.shadow and asdict(rules.shadow),
    }


def _rules(ledger: Ledger, name: str) -> tuple[str, TrafficRules]:
    """The version that serves, and the rules."""
    now, record = ledger.serving(name), ledger.traffic(name)
    if now is None:
        raise ConflictError(f"pipeline '{name}' serves no version", next=f"train one with `millrace run {name}`")
    return now.subject, TrafficRules.only(now.subject) if record is None else record.rules


def _share(option: str, text: str) -> tuple[str, float]:
    version, share = _pair(option, text, "VERSION=SHARE")
    try:
        return version, VersionShare(version, float(share)).share
    except ValueError:
        raise ConfigError(
            f"{option} has no share",
            got=text,
            allowed="VERSION=SHARE, for example 7=0.1 for a tenth",
            next="correct it",
        ) from None


def _pair(option: str, text: str, form: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not (equals and left.strip() and right.strip()):
        raise ConfigError(f"{option} cannot be read", got=text, allowed=form, next="correct it")
    return left.strip(), right.strip()


def _once(option: str, pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{option} names {twice} twice", next="name each once")
    return found
