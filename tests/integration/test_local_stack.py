"""The embedded stack as a whole, on free ports: starts, survives kill -9, stops without a trace."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from infra.local import stack
from infra.local.layout import Layout
from infra.local.processes import members, read_record, stop
from infra.local.status import NAMES
from millrace.errors import PortTakenError
from millrace.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


class Events(list[tuple[str, str, float | None]]):
    """Collects what `up` and `down` report."""

    def __call__(self, part: str, message: str, seconds: float | None) -> None:
        self.append((part, message, seconds))

    def messages(self, part: str) -> list[str]:
        return [message for name, message, _ in self if name == part]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def _processes(settings: Settings) -> list[psutil.Process]:
    run = settings.state / "run"
    return [process for name in NAMES for process in members(settings.state, name, read_record(run, name))]


def _by_mark_or_folder(settings: Settings) -> list[str]:
    """A second opinion: whatever names the stack's folders on its command line or in its environment."""
    names = (str(settings.state), str(Layout(settings.state).short))
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if process.pid == os.getpid():
            continue
        try:
            text = " ".join(process.info["cmdline"] or []) + " ".join(process.environ().values())
        except (psutil.Error, OSError):
            continue
        if any(name in text for name in names):
            found.append(f"{process.pid} {text[:120]}")
    return found


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    prefect, mlflow, serve, ray = _free_ports(4)
    found = Settings(
        state_dir=tmp_path_factory.mktemp("stack"),
        prefect_url=f"http://127.0.0.1:{prefect}",
        mlflow_url=f"http://127.0.0.1:{mlflow}",
        serve_url=f"http://127.0.0.1:{serve}",
        ray_port=ray,
        work_pool="stack-test",
    )
    yield found
    stop(_processes(found), grace_s=0)
    Layout(found.state).remove_short()


# One story in order: each step starts from the state that the one before left.


def test_a_taken_port_stops_up_before_anything_starts(settings: Settings) -> None:
    port = int(settings.mlflow_url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)), pytest.raises(PortTakenError) as caught:
        stack.up(settings, Events())
    for expected in (f"port {port}", "mlflow", f"process {os.getpid()}", "MILLRACE_MLFLOW_URL"):
        assert expected in caught.value.message
    assert _processes(settings) == []


def test_up_starts_everything(settings: Settings) -> None:
    events = Events()
    found = stack.up(settings, events)
    assert found.ready, found.as_dict()
    assert {part for part, message, seconds in events if message == "ready" and seconds} == set(NAMES)
    assert stat.S_IMODE((settings.state / "ray" / "token").stat().st_mode) == 0o600


def test_everything_listens_on_loopback(settings: Settings) -> None:
    ours = {process.pid: process.name() for process in _processes(settings)}
    outside = [
        (ours[found.pid], found.laddr)
        for found in psutil.net_connections("tcp")
        if found.pid in ours and found.status == psutil.CONN_LISTEN
        if found.laddr[0] not in ("127.0.0.1", "::ffff:127.0.0.1")
    ]
    assert outside == []


def test_up_again_changes_nothing(settings: Settings) -> None:
    before = stack.status(settings)
    events = Events()
    after = stack.up(settings, events)
    # HAProxy, the process that listens for Serve, replaces itself at every reload; the others must be the same.
    own = [name for name in NAMES if name != "serve"]
    assert after.ready
    assert [after[name].pid for name in own] == [before[name].pid for name in own]
    assert all(message.startswith("already running") for _, message, _ in events)


def test_up_repairs_what_was_killed_and_leaves_the_rest(settings: Settings) -> None:
    before = stack.status(settings)
    pid = before["mlflow"].pid
    assert pid is not None
    psutil.Process(pid).kill()
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
    assert not stack.status(settings)["mlflow"].running
    after = stack.up(settings, Events())
    assert after.ready
    assert after["mlflow"].pid != pid
    assert after["ray"].pid == before["ray"].pid
    assert after["prefect"].pid == before["prefect"].pid


def test_up_works_after_everything_was_killed(settings: Settings) -> None:
    before = stack.status(settings)
    killed = _processes(settings)
    for process in killed:
        with suppress(psutil.NoSuchProcess):  # one ends with the one before it
            process.kill()
    psutil.wait_procs(killed, timeout=10)
    assert not stack.status(settings).running
    after = stack.up(settings, Events())
    assert after.ready, after.as_dict()
    assert {part.pid for part in after.parts}.isdisjoint(part.pid for part in before.parts)


def test_down_leaves_nothing(settings: Settings) -> None:
    before = _processes(settings)
    assert len(before) > len(NAMES)
    stack.down(settings, Events())
    assert [process for process in before if process.is_running()] == []
    assert _by_mark_or_folder(settings) == []
    assert not Layout(settings.state).short.exists()
    assert not stack.status(settings).running


def test_down_again_is_fine(settings: Settings) -> None:
    events = Events()
    stack.down(settings, events)
    assert events.messages("stack") == ["not running"]


def test_state_survives(settings: Settings) -> None:
    assert (settings.state / "mlflow" / "mlflow.db").stat().st_size > 0
    assert (Path(settings.state) / "prefect" / "prefect.db").stat().st_size > 0
