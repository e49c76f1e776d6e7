"""Which flow runs live. A run beats while it lives; who watches judges by whether the number moves, not by a clock.

The row also says on which host and in which process the run lives, so that a watcher on the same host sees at once
that it is gone.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from millrace.errors import DataError, shorten
from millrace.faults import fault_point
from millrace.ledger.database import Database
from millrace.ledger.tables import HEARTBEATS

# psutil derives start times from clock ticks since boot: two readings may differ by rounding.
_CLOCK_TOLERANCE_SECONDS = 0.1
_PID_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One living run, or one that has stopped living without a word."""

    run: str
    flow: str
    pipeline: str
    host: str
    pid: int
    started: float
    beat: int

    @property
    def is_gone(self) -> bool:
        """Whether its process is known to have ended. False also where it cannot be seen from here."""
        return self._is_seen(alive=False)

    @property
    def is_seen_alive(self) -> bool:
        """Whether its process is seen to live, on this host."""
        return self._is_seen(alive=True)

    def kill(self) -> None:
        """SIGKILL to its process, where that is on this host and this user may."""
        if self.is_seen_alive and (process := self._process()) is not None:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.kill()

    def _is_seen(self, *, alive: bool) -> bool:
        if self.host != here():
            return False
        try:
            return (self._process() is not None) is alive
        except psutil.AccessDenied:
            return False

    def _process(self) -> psutil.Process | None:
        """Its process, unless that has ended and the number is another's by now."""
        try:
            process = psutil.Process(self.pid)
            ours = abs(process.create_time() - self.started) < _CLOCK_TOLERANCE_SECONDS
            return process if ours and process.status() != psutil.STATUS_ZOMBIE else None
        except (psutil.NoSuchProcess, OverflowError):  # a number that no process of this system can have
            return None


def here() -> str:
    """A name for the processes that this one can see: its host, and on Linux its container's."""
    # Containers on a host's network share its name, and count their processes each from 1.
    namespace = f"/{_PID_NAMESPACE.stat().st_ino}" if _PID_NAMESPACE.exists() else ""
    return f"{socket.gethostname()}{namespace}"


class Heartbeats:
    """The living runs of all pipelines."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, run: str, flow: str, pipeline: str) -> Heartbeat:
        """This process is run `run` from now on; an earlier process of the same run is superseded."""
        process = psutil.Process()
        mine = Heartbeat(run, flow, pipeline, here(), process.pid, process.create_time(), 0)
        with fault_point("heartbeat.begin"), self._database.write() as connection:
            connection.execute(HEARTBEATS.delete().where(HEARTBEATS.c.run == run))
            connection.execute(HEARTBEATS.insert().values(**asdict(mine)))
        return mine

    def beat(self, mine: Heartbeat) -> bool:
        """The process of `mine` lives; False when another process is that run by now."""
        with fault_point("heartbeat.beat"), self._database.write() as connection:
            beaten = connection.execute(HEARTBEATS.update().where(_is(mine)).values(beat=HEARTBEATS.c.beat + 1))
        return bool(beaten.rowcount)

    def end(self, heartbeat: Heartbeat) -> None:
        """The process of `heartbeat` has ended, or is known to be dead; a later process of the run is not meant."""
        with fault_point("heartbeat.end"), self._database.write() as connection:
            connection.execute(HEARTBEATS.delete().where(_is(heartbeat)))

    def all(self) -> list[Heartbeat]:
        with self._database.read() as connection:
            return [_heartbeat(row._asdict()) for row in connection.execute(sa.select(HEARTBEATS))]


def _heartbeat(row: Mapping[str, Any]) -> Heartbeat:
    if type(row["pid"]) is not int or row["pid"] <= 0 or type(row["started"]) is not float:
        raise DataError(
            f"the heartbeat of run '{shorten(str(row['run']))}' in the ledger is broken",
            got=f"pid {row['pid']!r}, started {row['started']!r}",
            next=f"delete its row from the table '{HEARTBEATS.name}'; the run's next beat shows whether it lives",
        )
    return Heartbeat(**row)


def _is(heartbeat: Heartbeat) -> sa.ColumnElement[bool]:
    columns = HEARTBEATS.c
    return sa.and_(
        columns.run == heartbeat.run,
        columns.host == heartbeat.host,
        columns.pid == heartbeat.pid,
        columns.started == heartbeat.started,
    )
