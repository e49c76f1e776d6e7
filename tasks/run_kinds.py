"""The kinds of entries that a flow run leaves. Light to import: the reconciler needs no orchestrator."""

from __future__ import annotations

STARTED = "run_started"
RESUMED = "run_resumed"
ABANDONED = "run_abandoned"

PROMOTED = "promoted"

#: How the identifier of a run begins that is no flow run of Prefect.
LOCAL = "local-"
