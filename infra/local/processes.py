"""Processes that outlive the command that started them: started, recognised later, stopped with all they started.

A record names a pid *and* its start time, so a pid that the system gave to somebody else is neither believed nor
killed. Each part leads a session of its own, which its children keep whatever else they change (Ray's workers leave
the process group and overwrite their environment); an environment variable marks what leaves the session.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from millrace.storage import digest_json, write_atomically

STACK_MARK = "_MILLRACE_STACK"
PART_MARK = "_MILLRACE_PART"
_DOORS = ("MILLRACE_LISTEN", "MILLRACE_PREFECT_AUTH", "MILLRACE_MLFLOW_AUTH")
_MAX_LOG_BYTES = 10 * 1024 * 1024
# psutil derives start times from clock ticks since boot: two readings may differ by rounding.
_CLOCK_TOLERANCE_S = 0.1


@dataclass(frozen=True)
class Record:
    """A started process."""

    part: str
    pid: int
    created: float
    settings: str = ""
    doors: str = ""

    @property
    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return (
                abs(process.create_time() - self.created) < _CLOCK_TOLERANCE_S
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False

    def write(self, run: Path) -> None:
        write_atomically(run / f"{self.part}.json", json.dumps(asdict(self)).encode())


def read_record(run: Path, part: str) -> Record | None:
    """What was started as `part` last, dead or alive."""
    try:
        return Record(**json.loads((run / f"{part}.json").read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def rotate(log: Path) -> int:
    """Put a long log aside; the number of bytes that are in it now."""
    size = log.stat().st_size if log.exists() else 0
    if size > _MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
        return 0
    return size


def settings_digest(env: Mapping[str, str]) -> str:
    """Digest of the settings in an environment; how much is logged does not count."""
    return digest_json(
        {name: value for name, value in env.items() if name.startswith("MILLRACE_") and "_LOG_" not in name}
    )


def doors_digest(env: Mapping[str, str]) -> str:
    """Digest of the settings that say who may ask: a server that was started with others stands too far open."""
    return digest_json({name: env.get(name, "") for name in _DOORS})


def spawn(
    part: str, command: list[str], *, env: Mapping[str, str], cwd: Path, log: Path, state: Path
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, its output appended to `log`, and record it."""
    marks = {STACK_MARK: str(state), PART_MARK: part}
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603
            command,
            env={**env, **marks},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with suppress(psutil.Error):  # gone already: whoever waits for it sees the exit status
        created = psutil.Process(process.pid).create_time()
        Record(part, process.pid, created, settings_digest(env), doors_digest(env)).write(state / "run")
    return process


def members(state: Path, part: str, record: Record | None = None) -> list[psutil.Process]:
    """Every living process of `part`: its session, and whatever carries its mark. Never this process or its parents."""
    spared = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    session = record.pid if record is not None and _owns_session(record) else None
    marks = (f"{STACK_MARK}={state}".encode(), f"{PART_MARK}={part}".encode())
    found = []
    for process in psutil.process_iter():
        if process.pid in spared:
            continue
        with suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if session is not None and os.getsid(process.pid) == session and record is not None:
                if process.create_time() >= record.created - _CLOCK_TOLERANCE_S:
                    found.append(process)
            elif _carries(process.pid, marks):
                found.append(process)
    return found


def _owns_session(record: Record) -> bool:
    """A pid is not given away while a session bears it: only another leader with that pid says that ours is gone."""
    try:
        return abs(psutil.Process(record.pid).create_time() - record.created) < _CLOCK_TOLERANCE_S
    except psutil.NoSuchProcess:
        return record.created > psutil.boot_time()
    except psutil.Error:
        return False


def _carries(pid: int, marks: tuple[bytes, bytes]) -> bool:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    variables = raw.split(b"\0")
    return all(mark in variables for mark in marks)


def stop(processes: Iterable[psutil.Process], grace_s: float) -> None:
    """SIGTERM to all, SIGKILL to those that are still there after `grace_s`; returns when none is left.

    psutil checks the start time before it sends a signal, so a reused pid is safe.
    """
    pending = list(processes)
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        for process in pending:
            with suppress(psutil.Error):
                process.send_signal(number)
        _, pending = psutil.wait_procs(pending, timeout=patience_s)
        if not pending:
            return


def tail(log: Path, start: int = 0, num_lines: int = 15) -> str:
    """The last lines that `log` got after its first `start` bytes."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-num_lines:])
    except FileNotFoundError:
        return ""
