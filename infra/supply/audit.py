"""`make audit`: the licences of all packages in the lock, and the advisories known here, against the policy.

It asks nobody: licences come from the metadata of the installed packages, advisories from the extract beside this file.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, LicenseWithExceptionSymbol, get_spdx_licensing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

_FOLDER = Path(__file__).resolve().parent
_LOCK = _FOLDER.parents[1] / "requirements.lock"
_MAX_LICENCE_CHARS = 100
_CLASSIFIER = "License :: "

#: (package) -> what its metadata say of its licence: SPDX expressions or names, the best first.
Licences = Callable[[str], list[str]]


@dataclass(frozen=True)
class Policy:
    """`policy.toml`."""

    allowed: frozenset[str]
    allowed_exceptions: frozenset[str] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)
    stated: Mapping[str, str] = field(default_factory=dict)
    excepted: Mapping[str, str] = field(default_factory=dict)
    accepted: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path = _FOLDER / "policy.toml") -> Policy:
        document = tomllib.loads(path.read_text())
        allowed, exceptions = (frozenset(document.pop(name)) for name in ("allowed", "allowed_exceptions"))
        return cls(allowed, exceptions, **document)

    def allows(self, expression: str) -> bool:
        """Whether an SPDX expression is satisfied by allowed licences alone."""
        return self._allows(get_spdx_licensing().parse(expression, validate=True))

    def _allows(self, node: Any) -> bool:
        if isinstance(node, LicenseWithExceptionSymbol):
            return node.license_symbol.key in self.allowed and node.exception_symbol.key in self.allowed_exceptions
        if not getattr(node, "args", ()):
            return node.key in self.allowed
        parts = [self._allows(part) for part in node.args]
        return any(parts) if node.operator.strip() == "OR" else all(parts)


def read_lock(text: str) -> dict[str, Version]:
    """Package -> version, of a requirements.lock.

    Raises:
        ValueError: a line pins no version.
    """
    found: dict[str, Version] = {}
    for line in text.splitlines():
        stripped = line.partition(" #")[0].strip().rstrip("\\").strip()
        if not stripped or stripped.startswith(("#", "--")):
            continue
        requirement = Requirement(stripped)
        pins = [spec.version for spec in requirement.specifier if spec.operator == "=="]
        if len(pins) != 1:
            raise ValueError(f"{stripped} pins no version")
        found[canonicalize_name(requirement.name)] = Version(pins[0])
    return found


def installed_licences(package: str) -> list[str]:
    """What the metadata of an installed package say of its licence."""
    try:
        told: Any = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return []
    if expression := told.get("License-Expression"):
        return [expression]
    classifiers = [line for line in told.get_all("Classifier", []) if line.startswith(_CLASSIFIER)]
    found = [line.rsplit(" :: ", 1)[-1] for line in classifiers if line.count(" :: ") > 1]
    # Some put the whole text there; its first line is its name.
    free = (told.get("License") or "").strip().partition("\n")[0].strip()
    return [free, *found] if free and len(free) <= _MAX_LICENCE_CHARS else found


def licence_problems(lock: Iterable[str], policy: Policy, licences: Licences = installed_licences) -> list[str]:
    """A line for each package whose licence is unknown or not allowed, and for each exception that nobody needs."""
    problems = []
    for package in sorted(lock):
        told = [policy.stated[package]] if package in policy.stated else licences(package)
        readable = [name for name in (policy.names.get(text, text) for text in told) if _is_spdx(name)]
        if readable and policy.allows(readable[0]):
            if package in policy.excepted:
                problems.append(f"{package}: is excepted without need")
            continue
        if package in policy.excepted:
            continue
        what = f"its licence is not allowed: {readable[0]}" if readable else f"its licence cannot be read: {told}"
        problems.append(f"{package}: {what}")
    return problems


def _is_spdx(text: str) -> bool:
    try:
        get_spdx_licensing().parse(text, validate=True)
    except ExpressionError:
        return False
    return True


def advisory_problems(
    lock: Mapping[str, Version], policy: Policy, advisories: Iterable[Mapping[str, Any]]
) -> list[str]:
    """A line for each OSV advisory that touches a version in the lock and is not accepted, or is so without need."""
    problems, touching = [], set()
    for advisory in advisories:
        for affected in advisory["affected"]:
            package = canonicalize_name(affected["package"]["name"])
            version = lock.get(package)
            if version is None or not any(_touches(found["events"], version) for found in affected["ranges"]):
                continue
            touching.add(advisory["id"])
            if advisory["id"] not in policy.accepted:
                problems.append(
                    f"{package} {version}: {advisory['id']}, {advisory['summary']}; {_fixed(affected['ranges'])}; "
                    f"{advisory['references'][0]['url']}"
                )
    return problems + [f"{name}: is accepted, but touches nothing" for name in sorted(set(policy.accepted) - touching)]


def _touches(events: Iterable[Mapping[str, str]], version: Version) -> bool:
    """OSV's rule: the newest event at or before the version decides."""
    affected = False
    for event in sorted(events, key=lambda event: Version(next(iter(event.values())))):
        ((kind, at),) = event.items()
        if kind == "introduced" and version >= Version(at):
            affected = True
        elif (kind == "fixed" and version >= Version(at)) or (kind == "last_affected" and version > Version(at)):
            affected = False
    return affected


def _fixed(ranges: Iterable[Mapping[str, Any]]) -> str:
    fixed = [event["fixed"] for found in ranges for event in found["events"] if "fixed" in event]
    return f"fixed in {', '.join(fixed)}" if fixed else "no release is known to be free of it"


def main() -> int:
    """Print what is wrong; 1 when something is."""
    policy, lock = Policy.read(), read_lock(_LOCK.read_text())
    known = json.loads((_FOLDER / "advisories.json").read_text())
    problems = licence_problems(lock, policy) + advisory_problems(lock, policy, known["advisories"])
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    sys.stdout.write(
        f"{len(lock)} packages, {len(known['advisories'])} advisories as of {known['extracted']}, "
        f"{len(policy.excepted)} licences and {len(policy.accepted)} advisories excepted with a reason: "
        f"{len(problems) or 'no'} problems\n"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
