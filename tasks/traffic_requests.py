"""Asking for another division of the traffic, by an entry of the ledger. Light to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from millrace.ledger import Entry
from millrace.traffic_rules import TrafficChange
from tasks.rollback_requests import Request


@dataclass(frozen=True, slots=True)
class TrafficRequest(Request):
    """A change of the rules by which versions answer."""

    requested: ClassVar[str] = "traffic_requested"
    ended: ClassVar[str] = "traffic_ended"

    change: TrafficChange = field(default_factory=TrafficChange)

    def detail(self) -> dict[str, Any]:
        return {"requested_by": self.requested_by, "change": self.change.as_json()}

    @classmethod
    def of(cls, entry: Entry) -> Self:
        change = TrafficChange.from_json(entry.detail["change"])
        return cls(entry.subject, entry.pipeline, entry.detail["requested_by"], change)
