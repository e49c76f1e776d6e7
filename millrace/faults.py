"""Named points at which a test may kill, fail or hold this process: each durable write, each call to another system.

    with fault_point("storage.commit"):
        os.link(partial, path)

A point is met twice: before its effect, and after it, when the effect is there but nobody has been told. Nothing
happens unless `_MILLRACE_FAULTS` names a folder with a schedule (`schedule.json`); then a fault strikes once, however
often processes start again: what has struck lies in the folder. `tests/unit/test_fault_points.py` finds an effect that
has no name.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, NoReturn, Self

from millrace.errors import ServiceError

FOLDER = "_MILLRACE_FAULTS"
_SCHEDULE = "schedule.json"
_HITS = "hits"
_HOLD_SECONDS = 600.0
_POLL_SECONDS = 0.02

Moment = Literal["before", "after"]
Action = Literal["kill", "fail", "hold"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens the `nth` time that `point` is met at `moment`, counted over all processes of the schedule.

    kill: SIGKILL to this process. fail: a ServiceError, as if the other system did not answer (after: it did the work,
    and its answer was lost). hold: this process waits until the file `go-INDEX` is there, while whoever made the
    schedule kills and restarts another part.
    """

    point: str
    moment: Moment
    action: Action
    nth: int = 1


@dataclass(frozen=True, slots=True)
class Schedule:
    """The faults of one run, in a folder that all its processes see."""

    folder: Path
    faults: tuple[Fault, ...]

    @classmethod
    def read(cls, folder: Path) -> Schedule:
        """The schedule in `folder`; without one nothing strikes."""
        path = folder / _SCHEDULE
        faults = json.loads(path.read_bytes()) if path.exists() else []
        return cls(folder, tuple(Fault(**fault) for fault in faults))

    def write(self) -> None:
        """Lay it out, in one step: processes that run already look at it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{_SCHEDULE}"
        partial.write_text(json.dumps([asdict(fault) for fault in self.faults]))
        partial.replace(self.folder / _SCHEDULE)

    def met(self, point: str, moment: Moment) -> None:
        """Count that `point` is met, and let the faults strike that wait for this."""
        with (self.folder / _HITS).open("a") as hits:
            hits.write(f"{point} {moment}\n")
        count = (self.folder / _HITS).read_text().splitlines().count(f"{point} {moment}")
        for index, fault in enumerate(self.faults):
            if (fault.point, fault.moment) == (point, moment) and fault.nth <= count and self._claim(index):
                self._strike(index, fault)

    @property
    def hits(self) -> list[str]:
        """What was met so far, `POINT MOMENT` a line, in order."""
        path = self.folder / _HITS
        return path.read_text().splitlines() if path.exists() else []

    def struck(self, index: int) -> bool:
        return (self.folder / f"struck-{index}").exists()

    def let_go(self, index: int) -> None:
        """End the hold of fault `index`."""
        (self.folder / f"go-{index}").touch()

    def _claim(self, index: int) -> bool:
        try:
            os.close(os.open(self.folder / f"struck-{index}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def _strike(self, index: int, fault: Fault) -> None:
        if fault.action == "kill":
            _kill_self()
        if fault.action == "fail":
            raise ServiceError(f"injected fault {fault.moment} {fault.point}")
        deadline = time.monotonic() + _HOLD_SECONDS
        while not (self.folder / f"go-{index}").exists():
            if time.monotonic() > deadline:
                raise ServiceError(f"nobody ended the hold {fault.moment} {fault.point}")
            time.sleep(_POLL_SECONDS)


def _kill_self() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL returned")


class fault_point:  # noqa: N801 - reads as a statement: `with fault_point("..."):`
    """A named place around one durable write or one call to another system."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> Self:
        if FOLDER in os.environ:
            Schedule.read(Path(os.environ[FOLDER])).met(self.name, "before")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None and FOLDER in os.environ:
            Schedule.read(Path(os.environ[FOLDER])).met(self.name, "after")
