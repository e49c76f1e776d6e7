"""The values of a spec that a decision rests on, and which of them have been accepted.

The newest accepted values are in the ledger. Whether a change of them needs an approval is said by what was accepted
before, not by what the file says now: who may change the rule cannot switch it off first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from millrace.ledger import Fact, Ledger
from millrace.spec import PipelineSpec
from millrace.spec.load import parse_spec
from millrace.storage import digest_json

ACCEPTED = "thresholds_accepted"

_SECTIONS = ("evaluation", "rollout", "monitoring", "approvals")
#: A section that was not there meant something before there was one: all traffic at once.
_ABSENT: dict[str, Any] = {"rollout": None}
#: Thresholds in sections that hold other things too.
_FIELDS = (("data", "max_quarantined_share"), ("serving", "guard"))


def thresholds(spec: PipelineSpec) -> dict[str, Any]:
    """All values by which something is passed, refused, braked, rolled back or approved."""
    document = spec.model_dump(mode="json")
    fields = {section: {field: document[section][field]} for section, field in _FIELDS}
    return {name: document[name] for name in _SECTIONS} | fields


def with_thresholds(spec: PipelineSpec, values: Mapping[str, Any]) -> PipelineSpec:
    """`spec` judged by other values; what they lack, as an older Millrace had no such field, has its default.

    Raises:
        SpecError: they do not fit it, as its label or features are others by now.
    """
    known = {**_ABSENT, **values}
    document = spec.model_dump(mode="json") | {name: known[name] for name in _SECTIONS if name in known}
    for section, field in _FIELDS:
        kept = {name: value for name, value in document[section].items() if name != field}
        document[section] = kept | values.get(section, {})
    return parse_spec(document, f"{spec.name} with the thresholds accepted before")


def accepted(ledger: Ledger, pipeline: str) -> Mapping[str, Any] | None:
    """The values that were accepted last; None before the first."""
    entry = ledger.newest(pipeline, ACCEPTED)
    return None if entry is None else entry.detail["values"]


def in_force(ledger: Ledger, spec: PipelineSpec) -> PipelineSpec:
    """`spec` as it may be acted on now: while a guarded change waits for a person, by the values accepted before."""
    values = accepted(ledger, spec.name)
    if values is None or not values.get("approvals", {}).get("change_threshold"):
        return spec
    return with_thresholds(spec, values)


def acceptance(ledger: Ledger, spec: PipelineSpec, run: str, because: str) -> Fact:
    """The entry that accepts the values of `spec`; of several for the same change, one stays."""
    before = ledger.newest(spec.name, ACCEPTED)
    values = thresholds(spec)
    digest = digest_json(values)
    once = f"{spec.name}:{0 if before is None else before.sequence}:{digest}"
    return Fact(spec.name, ACCEPTED, digest, {"values": values, "because": because}, run, once)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What changed, one line a value: `evaluation.min_rows: 500 -> 1`."""
    old, new = dict(_flat(before)), dict(_flat(after))
    names = sorted(set(old) | set(new))
    return [f"{n}: {old.get(n, '(none)')} -> {new.get(n, '(none)')}" for n in names if old.get(n) != new.get(n)]


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        dotted = f"{path}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{dotted}.")
        else:
            yield dotted, value
