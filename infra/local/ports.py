"""Whether a port is free, and who holds it."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import psutil

from millrace.errors import PortTakenError, shorten


@dataclass(frozen=True)
class Holder:
    """A process that listens."""

    pid: int
    name: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name}): {shorten(self.command)}"


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. Connections of a dead server (TIME_WAIT) do not count."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def holder(port: int) -> Holder | None:
    """The process that listens on `port`; None when there is none or it is another user's."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:  # macOS shows sockets of others to root only
        return None
    for connection in connections:
        if connection.status != psutil.CONN_LISTEN or connection.pid is None or connection.laddr[1:2] != (port,):
            continue
        try:
            process = psutil.Process(connection.pid)
            return Holder(process.pid, process.name(), " ".join(process.cmdline()))
        except psutil.Error:
            continue
    return None


def require_free(part: str, host: str, port: int, setting: str, example: str) -> None:
    """Refuse a taken port before anything is started.

    Raises:
        PortTakenError: something listens there.
    """
    if is_free(host, port):
        return
    found = holder(port)
    raise PortTakenError(
        f"port {port}, where {part} should listen, is taken",
        got=str(found) if found else "a process that this user may not see",
        allowed=f"a free port on {host}",
        next=f"{f'stop process {found.pid}' if found else 'stop it'}, or set {setting} (for example {example})",
    )


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody holds now: for tests and benchmarks that bring a stack of their own."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [int(opened.getsockname()[1]) for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()
