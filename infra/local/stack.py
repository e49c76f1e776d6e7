"""The embedded stack: `up`, `status`, `down`.

Whatever died, by whatever signal, `up` brings back and `down` clears away: nothing is believed because a file says
so. A part counts as running when its recorded process lives, and as ready when it answers.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from filelock import FileLock, Timeout

from infra.local import parts
from infra.local.doors import require
from infra.local.layout import Layout
from infra.local.processes import doors_digest, members, read_record, settings_digest, spawn, stop
from infra.local.start import OnEvent, clear, require_ports, start, stop_child
from infra.local.status import NAMES, PartStatus, StackStatus, part_status, stack_status
from millrace.errors import ConflictError, PortTakenError, ServiceError
from millrace.keys import KeyFile
from millrace.settings import Settings
from millrace.signing import Keys

__all__ = ["OnEvent", "PartStatus", "StackStatus", "down", "status", "up"]

_LOCK_PATIENCE_S = 300.0
# A living part that does not answer at once may only be busy; restarting it would lose what it does.
_DEAF_PATIENCE_S = 10.0
_SHUTDOWN_PATIENCE_S = 20.0
# Serve has been shut down by then and the object store keeps nothing: what Ray still waits for is its own time-outs.
_GRACE_S = {"ray": 1.0, "mlflow": 5.0, "prefect": 5.0}


def status(settings: Settings) -> StackStatus:
    """What runs and what answers. Changes nothing."""
    return stack_status(settings, Layout(settings.state))


def up(settings: Settings, on_event: OnEvent) -> StackStatus:
    """Start what does not run and return when all parts answer; what runs already is left alone.

    Raises:
        SettingsError: the stack would be open to others; nothing has been started.
        PortTakenError: another process listens where a part should; nothing has been started.
        ServiceError: a part ended or did not answer in time; the message has the end of its log.
        ConflictError: another `up` or `down` of this state folder takes too long.
    """
    require(settings)
    layout = Layout(settings.state)
    layout.run.mkdir(parents=True, exist_ok=True)
    with _locked(layout, on_event):
        layout.prepare()
        if settings.signing_key_file is None:
            Keys(settings.signing_key).create()
        if not settings.listens_elsewhere:
            KeyFile(settings.keys_path).create_local(settings.local_key)
        missing = _missing(settings, layout, on_event)
        try:
            _bring_up(settings, layout, missing, on_event)
        except PortTakenError:
            raise
        except ServiceError:
            if missing != ["serve"]:
                raise
            # Serve inside a living Ray is beyond repair from outside: take both from the start.
            on_event("serve", "could not be repaired: starting Ray again", None)
            _bring_up(settings, layout, ["ray", "serve"], on_event)
        return stack_status(settings, layout)


def _missing(settings: Settings, layout: Layout, on_event: OnEvent) -> list[str]:
    with ThreadPoolExecutor(len(NAMES)) as pool:
        found = list(pool.map(lambda name: _settled(settings, layout, name), NAMES))
    stale = {name for name in NAMES if _is_stale(settings, layout, name)}
    for part in found:
        if part.name in stale:
            on_event(part.name, "the settings have changed: starting it again", None)
        elif part.ready:
            on_event(part.name, f"already running ({part.address})", None)
        elif part.detail.startswith("on another machine"):
            raise ServiceError(
                f"{part.name} at {part.address} does not answer", next="start it there, or correct its URL"
            )
    missing = [part.name for part in found if not part.ready or part.name in stale]
    # Serve lives inside Ray.
    return [name for name in NAMES if name in missing or (name == "serve" and "ray" in missing)]


def _is_stale(settings: Settings, layout: Layout, name: str) -> bool:
    """Whether the part was started with other settings: it would look elsewhere than this command, or let others in."""
    record = read_record(layout.run, "ray" if name == "serve" else name)
    if record is None:
        return False
    if name in ("worker", "reconciler"):
        return record.settings != settings_digest(settings.environment())
    return record.doors != doors_digest(settings.environment())


def _settled(settings: Settings, layout: Layout, name: str) -> PartStatus:
    deadline = time.monotonic() + _DEAF_PATIENCE_S
    while True:
        found = part_status(settings, layout, name)
        if found.ready or not found.running or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def _bring_up(settings: Settings, layout: Layout, names: list[str], on_event: OnEvent) -> None:
    if not names:
        return
    clear(settings, layout, names)
    require_ports(settings, layout, names)
    start(settings, layout, names, on_event)


def down(settings: Settings, on_event: OnEvent) -> None:
    """Stop the stack and all it started: flow runs first, then Serve, then the servers.

    Raises:
        ServiceError: a process of the stack is still there.
        ConflictError: another `up` or `down` of this state folder takes too long.
    """
    layout = Layout(settings.state)
    if not layout.run.is_dir():
        on_event("stack", "not running", None)
        return
    with _locked(layout, on_event):
        running = [name for name in NAMES if members(layout.state, name, read_record(layout.run, name))]
        if not running:
            on_event("stack", "not running", None)
        # The reconciler first: what is stopped from here on is meant to be.
        _stop_part(layout, "reconciler", 5.0, on_event)
        _stop_part(layout, "worker", 5.0, on_event)
        if "ray" in running:
            _shut_serve_down(settings, layout, on_event)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda name: _stop_part(layout, name, _GRACE_S[name], on_event), _GRACE_S))
        left = [process for name in NAMES for process in members(layout.state, name, read_record(layout.run, name))]
        if left:
            raise ServiceError(
                "processes of the stack do not end", got=[process.pid for process in left], next="kill them by hand"
            )
        for name in NAMES:
            (layout.run / f"{name}.json").unlink(missing_ok=True)
        (layout.run / "ports.json").unlink(missing_ok=True)
        layout.remove_short()


def _stop_part(layout: Layout, name: str, grace_s: float, on_event: OnEvent) -> None:
    began = time.monotonic()
    found = members(layout.state, name, read_record(layout.run, name))
    if found:
        on_event(name, "stopping", None)
        stop(found, grace_s)
        on_event(name, "stopped", time.monotonic() - began)


def _shut_serve_down(settings: Settings, layout: Layout, on_event: OnEvent) -> None:
    """Let replicas finish their requests and write out their inference log."""
    if not part_status(settings, layout, "serve").ready:
        return
    began = time.monotonic()
    on_event("serve", "stopping", None)
    part = parts.serve(settings, layout, "shutdown")
    process = spawn(
        "serve",
        list(part.command),
        env=part.env(settings),
        cwd=layout.state,
        log=layout.log("serve"),
        state=layout.state,
    )
    try:
        process.wait(_SHUTDOWN_PATIENCE_S)
    except subprocess.TimeoutExpired:
        stop_child(process)
    on_event("serve", "stopped", time.monotonic() - began)


@contextmanager
def _locked(layout: Layout, on_event: OnEvent) -> Iterator[None]:
    lock = FileLock(layout.run / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_event("stack", "waiting for another up or down to end", None)
        try:
            lock.acquire(timeout=_LOCK_PATIENCE_S)
        except Timeout:
            raise ConflictError(
                f"another up or down has held {layout.run / 'lock'} for {_LOCK_PATIENCE_S:.0f} s",
                next="wait for it, or stop that process",
            ) from None
    try:
        yield
    finally:
        lock.release()
