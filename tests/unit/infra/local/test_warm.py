"""The server of warm flow runs outlives who asks it: a stand-in may be killed or stopped at any moment."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.waiting import until

_ROOT = Path(__file__).resolve().parents[4]
# Without the libraries, and with a flow run that only waits: what is left is what this is about.
_SERVER = """
import sys, time
from infra.local import warm
warm._LIBRARIES, warm._REQUEST_SECONDS = (), 0.2
warm._forget_parent, warm.run_engine = lambda: None, lambda: time.sleep(600)
warm.serve(sys.argv[1])
"""


class Server:
    """The process, and the socket that it listens on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process = subprocess.Popen([sys.executable, "-c", _SERVER, str(path)], cwd=_ROOT)
        until(self._listens, "the server's socket")

    def _listens(self) -> bool:
        """Its file is there a moment before anybody is let in."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.path)) == 0

    @property
    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        connection.connect(str(self.path))
        return connection


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "warm")
    yield made
    made.process.kill()
    made.process.wait()


def _request() -> bytes:
    return json.dumps({"env": dict(os.environ), "cwd": str(_ROOT)}).encode()


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(4) == b""
    except ConnectionResetError:  # with bytes that nobody had read
        return True


def _ask(connection: socket.socket, request: bytes, announced: int) -> None:
    socket.send_fds(connection, [struct.pack("!I", announced)], [0, 1, 2])
    connection.sendall(request)


def test_a_child_is_forked_for_a_request_and_killed_with_who_asked(server: Server) -> None:
    with server.connect() as connection:
        _ask(connection, _request(), len(_request()))
        (number,) = struct.unpack("!i", connection.recv(4))
        assert [child.pid for child in server.children] == [number]
    until(lambda: not server.children, "the end of the child")
    assert server.process.poll() is None


@pytest.mark.parametrize("announced", [None, 1000, 1 << 31])
def test_it_outlives_a_stand_in_that_is_killed_before_it_has_asked(server: Server, announced: int | None) -> None:
    with server.connect() as connection:
        if announced is not None:
            _ask(connection, b"{", announced)
        connection.shutdown(socket.SHUT_WR)
        assert _is_closed(connection)
    with server.connect() as connection:
        _ask(connection, b"[1, 2]", 6)
        assert _is_closed(connection)
    assert (server.process.poll(), server.children) == (None, [])


def test_one_that_is_stopped_before_it_has_asked_keeps_nobody_waiting(server: Server) -> None:
    with server.connect() as stopped, server.connect() as other:
        _ask(other, _request(), len(_request()))
        assert len(other.recv(4)) == 4
        assert _is_closed(stopped)


def test_it_outlives_a_stand_in_that_is_killed_after_it_has_asked(server: Server) -> None:
    process = psutil.Process(server.process.pid)
    process.suspend()
    with server.connect() as connection:
        _ask(connection, _request(), len(_request()))
    process.resume()
    with server.connect() as connection:
        _ask(connection, _request(), len(_request()))
        (number,) = struct.unpack("!i", connection.recv(4))
        until(lambda: [child.pid for child in server.children] == [number], "the end of the first child")
