"""A PostgreSQL server of the suite's own, from the binaries of the system, in a folder of its own."""

from __future__ import annotations

import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

_USER = "millrace"
_PASSWORD = "hush-it-is-a-secret"
_DEBIAN = Path("/usr/lib/postgresql")
_SECONDS = 60

MISSING = "PostgreSQL is not installed"


@dataclass
class Postgres:
    """Listens on a socket in its folder only, and asks for a password."""

    binaries: Path
    folder: Path
    # PostgreSQL refuses to run as root.
    account: dict[str, Any]
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    # Who starts a server that another thread is killing meets the dying one.
    _changing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def create(self) -> None:
        password = self.folder / "password"
        password.write_text(_PASSWORD)
        self._run("initdb", "-D", str(self.data), "-U", _USER, "--auth=scram-sha-256", f"--pwfile={password}")
        self.start()

    def start(self) -> None:
        # What a process wrote outlives its SIGKILL without a synchronisation; on a slow disk they take minutes.
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"
        log = str(self.folder / "server.log")
        with self._changing:
            self._run("pg_ctl", "start", "-w", "-t", str(_SECONDS), "-D", str(self.data), "-l", log, "-o", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-t", str(_SECONDS), "-m", "fast", "-D", str(self.data))

    def kill(self) -> None:
        """SIGKILL to the server and all its processes, as a power cut would."""
        with self._changing:
            server = self._server()
            processes = [] if server is None else [server, *server.children(recursive=True)]
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            psutil.wait_procs(processes, timeout=30)

    @property
    def running(self) -> bool:
        return self._server() is not None

    def _server(self) -> psutil.Process | None:
        try:
            server = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None
        return server if server.status() != psutil.STATUS_ZOMBIE else None

    def new_url(self) -> str:
        """The URL of an empty schema of its own; databases would cost 300 files each."""
        name, url = f"ledger_{next(self._numbers)}", f"postgresql://{_USER}:{_PASSWORD}@/postgres?host={self.folder}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return f"{url}&options=-csearch_path%3D{name}"

    def _run(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.log").open("a+") as log:
            done = subprocess.run(
                [self.binaries / program, *arguments],
                stdout=log,
                stderr=log,
                check=False,
                cwd=self.folder,
                **self.account,
            )
            log.seek(0)
            assert done.returncode == 0, log.read()


def _binaries() -> Path | None:
    found = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: int(re.sub(r"\D", "", path.parts[4]) or 0))
    on_path = shutil.which("initdb")
    newest = found[-1] if found else Path(on_path) if on_path else None
    return None if newest is None else newest.parent


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server that runs as long as the session; skipped where the system has none."""
    with running_postgres() as server:
        if server is None:
            pytest.skip(f"{MISSING} (Debian: apt-get install postgresql)")
        yield server


@contextmanager
def running_postgres() -> Iterator[Postgres | None]:
    """A server of one's own until the block ends; None where the system has none."""
    binaries = _binaries()
    if binaries is None:
        yield None
        return
    account: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="millrace-postgres-"))
    if os.geteuid() == 0:
        known = {entry.pw_name for entry in pwd.getpwall()}
        found = pwd.getpwnam("postgres" if "postgres" in known else "nobody")
        account = {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
        os.chown(folder, found.pw_uid, found.pw_gid)
    server = Postgres(binaries, folder, account)
    try:
        server.create()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)
