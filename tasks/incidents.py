"""The steps around an incident: announce it, answer it once, and keep what came of that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from millrace.errors import ConflictError, FencedError
from tasks.liveness import die
from tasks.responses import find_incident, send_event
from tasks.run import Run, step, will_go_on


@step
def announce_incidents(run: Run) -> list[str]:
    """Send the event of each incident that nobody has answered: this one's, and any that was lost before."""
    unanswered = run.ledger.outbox.unanswered(run.pipeline.name)
    for incident in unanswered:
        send_event(run.settings, incident)
    return [incident.key for incident in unanswered]


def require_own(run: Run, incident: str | None) -> None:
    """Refuse to answer what is not this run's to answer, before anything is done for it.

    Raises:
        UnknownNameError: the ledger has no such incident.
        ConflictError: it is another pipeline's, or another run answers it.
    """
    if incident is None:
        return
    found = find_incident(run.ledger, incident)
    if found.pipeline != run.pipeline.name:
        raise ConflictError(
            f"incident '{incident}' is one of another pipeline",
            got=found.pipeline,
            allowed=run.pipeline.name,
            next="leave incident empty: it is set by what answers incidents",
        )
    if found.response not in (None, run.id):
        raise ConflictError(
            f"incident '{incident}' is answered by another run",
            got=found.response,
            allowed=f"one training for each incident, not also {run.id}",
            next="look at that run; leave incident empty for a training of your own",
        )


@contextmanager
def answering(run: Run, incident: str | None) -> Iterator[None]:
    """Record `failed` as the incident's outcome when its training fails; success records its own.

    A kill is no failure: the run goes on. Nor is it one that a later life of the run has taken over.

    Raises:
        UnknownNameError, ConflictError: the incident is not this run's to answer, as in `require_own`.
    """
    require_own(run, incident)
    try:
        yield
    except Exception as error:
        if run.is_superseded:
            die(run.id)
        if incident is not None and not isinstance(error, FencedError) and not will_go_on(error):
            run.ledger.outbox.close(incident, "failed")
        raise
