"""Where a stack keeps its files and which ports beside the settings' own it uses."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.local.ports import is_free
from millrace.errors import ServiceError
from millrace.new_file import create
from millrace.settings import Settings
from millrace.storage import write_atomically

# Linux takes 107 bytes for a Unix socket's path; below its temp dir Ray adds /session_…/sockets/plasma_store.
_MAX_RAY_TEMP_BYTES = 107 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")
_KEPT_RAY_SESSIONS = 2

# Blocks of ports below Linux' ephemeral range (32768), where nothing is handed out by chance.
_FIRST_BLOCK, _NUM_BLOCKS, _BLOCK_SIZE = 20_000, 96, 128
_REPLICA_OFFSET = 16


@dataclass(frozen=True)
class AuxiliaryPorts:
    """Ports nobody types: the block follows from the Ray port, so two stacks differ and the default one is stable."""

    dashboard: int
    agent: int
    ray_metrics: int
    haproxy_stats: int
    haproxy_metrics: int
    fallback_proxy: int
    replica_first: int
    replica_last: int

    @classmethod
    def in_block(cls, base: int) -> AuxiliaryPorts:
        first, last = base + _REPLICA_OFFSET, base + _BLOCK_SIZE - 1
        return cls(base, base + 1, base + 2, base + 3, base + 4, base + 5, replica_first=first, replica_last=last)

    @property
    def listened(self) -> tuple[int, ...]:
        """Those that are bound from the start."""
        return (
            self.dashboard, self.agent, self.ray_metrics, self.haproxy_stats, self.haproxy_metrics, self.fallback_proxy
        )  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """The folders of one stack."""

    state: Path

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def token(self) -> Path:
        return self.state / "ray" / "token"

    @property
    def short(self) -> Path:
        """A folder with a short name for sockets; the name follows from the state folder."""
        return Path("/tmp") / f"mr-{hashlib.sha256(str(self.state).encode()).hexdigest()[:10]}"  # noqa: S108

    @property
    def haproxy(self) -> Path:
        """HAProxy's files; below it come a node id of 56 characters and a socket, 97 bytes in all at most."""
        return self.short / "hap"

    @property
    def ray_temp(self) -> Path:
        wanted = self.state / "ray"
        return wanted if len(os.fsencode(wanted)) <= _MAX_RAY_TEMP_BYTES else self.short / "ray"

    def log(self, part: str) -> Path:
        return self.logs / f"{part}.log"

    def prepare(self) -> None:
        """Make the folders and Ray's token, which must be there before Ray starts.

        Raises:
            ServiceError: somebody else owns the short folder under /tmp.
        """
        for folder in (self.run, self.logs, self.token.parent, self.state / "prefect", self.state / "mlflow"):
            folder.mkdir(parents=True, exist_ok=True)
            # Databases, logs and digests of the settings: of no other user's concern.
            folder.chmod(0o700)
        with suppress(FileExistsError):  # looked at below, whatever it is
            self.short.mkdir(mode=0o700)
        found = self.short.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            # /tmp is everybody's, the name can be guessed, and HAProxy's admin socket goes there.
            raise ServiceError(
                f"{self.short} is not a private folder of this user",
                got=f"owner {found.st_uid}, mode {stat.filemode(found.st_mode)}",
                next="remove it, or choose another MILLRACE_STATE_DIR",
            )
        self.ray_temp.mkdir(parents=True, exist_ok=True)
        if not self.token.exists():
            create(self.token, secrets.token_hex(32).encode(), 0o600)

    def prune_ray_sessions(self) -> None:
        """Drop old Ray sessions and stale sockets; only while no Ray of this stack runs."""
        sessions = sorted(self.ray_temp.glob("session_2*"), key=lambda path: path.name)
        for session in sessions[:-_KEPT_RAY_SESSIONS]:
            shutil.rmtree(session, ignore_errors=True)
        shutil.rmtree(self.haproxy, ignore_errors=True)

    def remove_short(self) -> None:
        if self.short.is_dir() and not self.short.is_symlink():
            shutil.rmtree(self.short, ignore_errors=True)

    def read_ports(self) -> AuxiliaryPorts | None:
        """The ports of the Ray that was started last, or None."""
        try:
            return AuxiliaryPorts(**json.loads((self.run / "ports.json").read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def choose_ports(self, settings: Settings) -> AuxiliaryPorts:
        """Take the first block whose ports are all free, and remember it.

        Raises:
            ServiceError: there is none.
        """
        start = settings.ray_port % _NUM_BLOCKS
        for slot in range(start, start + _NUM_BLOCKS):
            ports = AuxiliaryPorts.in_block(_FIRST_BLOCK + slot % _NUM_BLOCKS * _BLOCK_SIZE)
            if all(is_free("127.0.0.1", port) for port in ports.listened):
                write_atomically(self.run / "ports.json", json.dumps(asdict(ports)).encode())
                return ports
        raise ServiceError("no free ports between 20000 and 32287 for Ray's dashboard and HAProxy", next="free some")
