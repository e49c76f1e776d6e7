"""Holding a pipeline's slot: one run trains it at a time, one run at a time changes what it serves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from prefect.exceptions import PrefectSignal

from millrace.errors import UnknownNameError
from millrace.ledger import Ledger, Slot, Token
from millrace.logs import get_logger
from millrace.settings import Settings
from tasks.prefect_api import flow_state
from tasks.run import Run
from tasks.run_kinds import ABANDONED, LOCAL

_POLL_SECONDS = 0.3


@contextmanager
def holding(run: Run, slot: Slot) -> Iterator[Run]:
    """The run with the token of `slot`, once it holds it; others wait meanwhile.

    A run that is killed keeps its slot until it goes on, takes it again under a new token, and ends; or until the
    reconciler gives it up.
    """
    held = replace(run, token=_take(run, slot))
    try:
        yield held
    except (Exception, PrefectSignal):
        run.ledger.slots.release(held.proof)
        raise
    run.ledger.slots.release(held.proof)


def _take(run: Run, slot: Slot) -> Token:
    over: str | None = None
    told: str | None = None
    while True:
        taken = run.ledger.slots.take(run.pipeline.name, slot, run.id, instead_of=over)
        if isinstance(taken, Token):
            return taken
        if is_over(run.settings, run.ledger, run.pipeline.name, taken):
            over = taken
            continue
        if told != taken:
            get_logger().info(f"waiting for the {slot} slot", pipeline=run.pipeline.name, holder=taken)
            told = taken
        time.sleep(_POLL_SECONDS)


def is_over(settings: Settings, ledger: Ledger, pipeline: str, run: str) -> bool:
    """Whether a run that holds a slot does nothing with it any more. A crashed one will: the reconciler sees to that.

    One that waits for a person takes its slot again when it goes on; it was killed while it gave it back.
    """
    if ledger.entries(pipeline, ABANDONED, subject=run):
        return True
    heartbeat = next((beat for beat in ledger.heartbeats.all() if beat.run == run), None)
    if run.startswith(LOCAL):
        return heartbeat is None or heartbeat.is_gone
    if heartbeat is not None:
        return False
    try:
        state = flow_state(settings, run)
    except UnknownNameError:
        return True
    return state.state == "PAUSED" or (state.is_final and state.state != "CRASHED")
