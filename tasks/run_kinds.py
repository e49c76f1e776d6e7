"""The kinds of entries that tell a flow run's life. Light to import: the reconciler needs no orchestrator."""

from __future__ import annotations

STARTED = "run_started"
RESUMED = "run_resumed"
ABANDONED = "run_abandoned"

#: How the identifier of a run begins that is no flow run of Prefect.
LOCAL = "local-"
