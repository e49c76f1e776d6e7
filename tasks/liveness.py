"""A flow run says that it lives, once a second, for as long as its flow runs in this process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import psutil
from prefect.exceptions import PrefectSignal

from millrace.errors import FencedError, MillraceError
from millrace.ledger import Heartbeat, Ledger
from millrace.logs import get_logger

BEAT_SECONDS = 1.0

#: Where Prefect tells a process which run it is.
_RUN = "PREFECT__FLOW_RUN_ID"


@contextmanager
def living(ledger: Ledger, run: str, flow: str, pipeline: str) -> Iterator[Heartbeat]:
    """Beat while the block runs. An end by an error is an end; a kill or a signal leaves the heartbeat behind, by which
    the reconciler finds the run and has it go on.

    Raises:
        ServiceError: the ledger does not answer.
    """
    mine = ledger.heartbeats.begin(run, flow, pipeline)
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(ledger, mine, ended), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield mine
    except FencedError:
        # Only a later life of the same run, or who gave it up, takes its slot away.
        die(run)
    except (Exception, PrefectSignal):
        _end(ledger, mine, ended, thread)
        raise
    except BaseException:
        ended.set()
        raise
    else:
        _end(ledger, mine, ended, thread)


def runs_here() -> set[str]:
    """The flow runs for which a process was started on this host that still lives, as far as we may see them."""
    environments = (process.info["environ"] or {} for process in psutil.process_iter(["environ"]))
    return {environment[_RUN] for environment in environments if _RUN in environment}


def _beat(ledger: Ledger, mine: Heartbeat, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        try:
            is_mine = ledger.heartbeats.beat(mine)
        except MillraceError as error:
            # A ledger that is away for a moment must not end a run; if it stays away, the run's own steps fail.
            get_logger().warning("no heartbeat", run=mine.run, error=str(error))
            continue
        if not is_mine and not ended.is_set():
            die(mine.run)


def die(run: str) -> NoReturn:
    """End a process that another one has superseded, without a word to anybody: the run is the other's now.

    Whatever it said on its way out (a state to Prefect, an outcome to the ledger) would be taken for the other's.
    """
    get_logger().error("superseded: this process ends", run=run)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL returned")


def _end(ledger: Ledger, mine: Heartbeat, ended: threading.Event, thread: threading.Thread) -> None:
    ended.set()
    thread.join()
    ledger.heartbeats.end(mine)
