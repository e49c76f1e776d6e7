"""Flow runs that start warm: a process that has imported the heavy libraries, and forks one child a flow run.

Importing Prefect, Ray, torch, MLflow and Evidently takes a laptop longer than most steps of a flow. The worker starts
`python -m infra.local.warm` for each flow run; it hands its environment, folder and streams to the server over a
private socket and stays as the child's stand-in: what signals it gets it passes on, and it ends as the child ends.
Without a server it runs the flow itself. Only libraries are imported ahead: flows and pipelines are read fresh.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Any, NoReturn

SOCKET = "_MILLRACE_WARM_SOCKET"

_LIBRARIES = (
    "prefect.flow_engine",
    "pandas",
    "pyarrow.parquet",
    "sqlalchemy",
    "httpx",
    "structlog",
    "rich.traceback",
    "anyio._backends._asyncio",
    "ray",
    "ray.serve",
    "ray.train.torch",
    "safetensors.torch",
    "mlflow",
    "mlflow.models",
    "matplotlib.figure",
    "evidently.metrics",
)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MAX_REQUEST_BYTES = 4 << 20
# The server reads one request at a time: a stand-in that is stopped while it asks must not stop the others.
_REQUEST_SECONDS = 5.0


def main() -> NoReturn:
    """The stand-in: have the flow run executed by a warm child, or execute it here."""
    path = os.environ.get(SOCKET, "")
    request = json.dumps({"env": dict(os.environ), "cwd": os.getcwd()}).encode()  # noqa: PTH109 - light imports only
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        socket.send_fds(connection, [struct.pack("!I", len(request))], [0, 1, 2])
        connection.sendall(request)
        child = _read_int(connection)
    except OSError:
        # A child of a server that ended since has ended with it.
        run_engine()
    for number in _SIGNALS:
        signal.signal(number, lambda received, _frame: _signal(child, received))
    # Interrupted reads go on by themselves (PEP 475); the server answers when the child has ended.
    try:
        status = _read_int(connection)
    except OSError:
        status = 1  # the server was killed, and its children with it
    sys.exit(status if status >= 0 else 128 - status)


def run_engine() -> NoReturn:
    """Prefect's engine in this process; the flow run is in its environment."""
    import runpy

    sys.argv = ["prefect.engine"]
    sys.modules.pop("prefect.engine", None)
    runpy.run_module("prefect.engine", run_name="__main__")
    sys.exit(0)


def serve(path: str) -> NoReturn:
    """Import the libraries, then fork a child for each request, until the worker that started this is gone."""
    # A flow run must not slow down what answers predictions; Ray's own workers are nice as well.
    os.nice(10)
    parent = os.getppid()
    _die_with_parent()
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - pathlib is not needed for anything else here
    _import_libraries()
    # A child's collector would look at, and so copy, all that was imported here.
    gc.collect()
    gc.freeze()
    _Server(path, parent).run()


class _Server:
    """One thread and no threads ever: a fork copies only the thread that forks."""

    def __init__(self, path: str, parent: int) -> None:
        self._parent = parent
        self._children: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        old = os.umask(0o177)
        self._listener.bind(path)
        os.umask(old)
        self._listener.listen()
        self._selector.register(self._listener, selectors.EVENT_READ)
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._woken = woken
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._selector.register(woken, selectors.EVENT_READ)

    def run(self) -> NoReturn:
        while os.getppid() == self._parent:
            for key, _ in self._selector.select(timeout=1.0):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == self._woken:
                    self._reap()
                else:
                    self._abandoned(key.fileobj)
        for child in self._children:
            _signal(child, signal.SIGTERM)
        sys.exit(0)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        if _peer_uid(connection) != os.getuid():
            connection.close()
            return
        try:
            request, streams = _receive(connection)
        except (OSError, ValueError):  # its stand-in was killed or stopped before it had asked
            connection.close()
            return
        child = os.fork()
        if child == 0:
            self._become(connection, request, streams)
        for stream in streams:
            os.close(stream)
        self._children[child] = connection
        self._selector.register(connection, selectors.EVENT_READ)
        with suppress(OSError):  # its stand-in was killed: that is seen next
            connection.sendall(struct.pack("!i", child))

    def _become(self, connection: socket.socket, request: dict[str, Any], streams: list[int]) -> NoReturn:
        """In the child: be the process that the stand-in would have been."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _die_with_parent()
        self._selector.close()
        self._listener.close()
        connection.close()
        for other in self._children.values():
            other.close()
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
            os.close(stream)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        status = 1
        try:
            _forget_parent()
            run_engine()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # noqa: BLE001 - the last frame of a process: what is raised here is printed, as Python would
            sys.excepthook(*sys.exc_info())
        finally:
            # Not os._exit alone: Prefect sends a run's last logs and states from exit handlers.
            _run_exit_handlers()
            os._exit(status)

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)
        while True:
            try:
                child, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if child == 0:
                return
            connection = self._children.pop(child)
            with suppress(KeyError):  # unregistered already when the stand-in was killed
                self._selector.unregister(connection)
            with suppress(OSError):
                connection.sendall(struct.pack("!i", os.waitstatus_to_exitcode(status)))
            connection.close()

    def _abandoned(self, connection: Any) -> None:
        """The stand-in was killed: so is its child, as it would have been without us."""
        for child, known in self._children.items():
            if known is connection:
                _signal(child, signal.SIGKILL)
        self._selector.unregister(connection)


def _import_libraries() -> None:
    import importlib

    for name in _LIBRARIES:
        importlib.import_module(name)


def _forget_parent() -> None:
    """What a forked process must not share: random numbers, and settings read from another environment."""
    import random

    import numpy as np
    from prefect.context import refresh_global_settings_context

    random.seed()
    np.random.seed()
    refresh_global_settings_context()


def _run_exit_handlers() -> None:
    import atexit
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()


def _die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however that happens (prctl, Linux only)."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _peer_uid(connection: socket.socket) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What a stand-in asks for, and its three streams.

    Raises:
        OSError: it did not ask to the end.
        ValueError: it asked for something else.
    """
    connection.settimeout(_REQUEST_SECONDS)
    head, streams, _, _ = socket.recv_fds(connection, 4, 3)
    try:
        if len(head) != 4 or len(streams) != 3:
            raise ConnectionError("the other side is gone")
        request = json.loads(_read_exactly(connection, struct.unpack("!I", head)[0]))
        if not isinstance(request, dict):
            raise ValueError(f"a request is no {type(request).__name__}")
    except BaseException:
        for stream in streams:
            os.close(stream)
        raise
    connection.settimeout(None)
    return request, streams


def _read_int(connection: socket.socket) -> int:
    return int(struct.unpack("!i", _read_exactly(connection, 4))[0])


def _read_exactly(connection: socket.socket, count: int) -> bytes:
    if count > _MAX_REQUEST_BYTES:
        raise ValueError(f"a request of {count} bytes; at most {_MAX_REQUEST_BYTES} are taken")
    content = b""
    while len(content) < count:
        part = connection.recv(count - len(content))
        if not part:
            raise ConnectionError("the other side is gone")
        content += part
    return content


def _signal(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(sys.argv[1])
    main()
