"""The steps around an incident: announce it, and keep what came of its response."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from millrace.errors import FencedError
from tasks.liveness import die
from tasks.responses import send_event
from tasks.run import Run, step, will_go_on


@step
def announce_incidents(run: Run) -> list[str]:
    """Send the event of each incident that nobody has answered: this one's, and any that was lost before."""
    unanswered = run.ledger.outbox.unanswered(run.pipeline.name)
    for incident in unanswered:
        send_event(run.settings, incident)
    return [incident.key for incident in unanswered]


@contextmanager
def answering(run: Run, incident: str | None) -> Iterator[None]:
    """Record `failed` as the incident's outcome when its training fails; success records its own.

    A kill is no failure: the run goes on. Nor is it one that a later life of the run has taken over.
    """
    try:
        yield
    except Exception as error:
        if run.is_superseded:
            die(run.id)
        if incident is not None and not isinstance(error, FencedError) and not will_go_on(error):
            run.ledger.outbox.close(incident, "failed")
        raise
