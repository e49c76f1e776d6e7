"""The record of incidents, decisions, versions served and costs, in SQLite or PostgreSQL: append-only, hash-chained."""

from millrace.ledger.heartbeats import Heartbeat
from millrace.ledger.journal import SYSTEM, Entry, Fact
from millrace.ledger.ledger import REGISTERED, TRAFFIC, CheckRecord, Ledger, TrafficRecord
from millrace.ledger.outbox import Incident
from millrace.ledger.slots import Slot, Token

__all__ = [
    "REGISTERED",
    "SYSTEM",
    "TRAFFIC",
    "CheckRecord",
    "Entry",
    "Fact",
    "Heartbeat",
    "Incident",
    "Ledger",
    "Slot",
    "Token",
    "TrafficRecord",
]
