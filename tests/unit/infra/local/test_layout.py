from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.local.layout import AuxiliaryPorts, Layout
from millrace.errors import ServiceError
from millrace.settings import Settings
from tests.full_disk import run_on_full_disk

pytestmark = pytest.mark.unit


def test_sockets_fit_into_the_systems_limit_whatever_the_state_folder(tmp_path: Path) -> None:
    deep = Layout(tmp_path / ("folder" * 20))
    session = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
    assert len(os.fsencode(f"{deep.ray_temp}{session}")) <= 107
    assert len(os.fsencode(deep.haproxy / ("f" * 56) / "metrics.sock")) <= 97


def test_ray_keeps_its_files_in_the_state_folder_where_they_fit() -> None:
    assert Layout(Path("/home/me/x/.millrace")).ray_temp == Path("/home/me/x/.millrace/ray")


def test_the_short_folder_is_refused_when_others_could_reach_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.short.mkdir(mode=0o777)
    layout.short.chmod(0o777)
    try:
        with pytest.raises(ServiceError, match="not a private folder"):
            layout.prepare()
    finally:
        layout.remove_short()


def test_the_token_survives_a_second_start(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.prepare()
    token = layout.token.read_text()
    layout.prepare()
    assert layout.token.read_text() == token
    layout.remove_short()


def test_a_token_is_whole_or_absent(tmp_path: Path) -> None:
    code = "import sys, pathlib; from infra.local.layout import Layout; Layout(pathlib.Path(sys.argv[1])).prepare()"
    assert "OSError" in run_on_full_disk(code, str(tmp_path))
    layout = Layout(tmp_path)
    layout.prepare()
    assert len(layout.token.read_text()) == 64
    assert layout.token.stat().st_mode & 0o777 == 0o600
    layout.remove_short()


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/nowhere")])
def test_what_lies_in_the_place_of_the_short_folder_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    layout = Layout(tmp_path)
    make(layout.short)
    try:
        with pytest.raises(ServiceError, match="not a private folder") as caught:
            layout.prepare()
        assert caught.value.next is not None
    finally:
        layout.short.unlink()


def test_two_stacks_get_different_ports(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    (tmp_path / "run").mkdir()
    settings = Settings(state_dir=tmp_path)
    first = layout.choose_ports(settings)
    assert layout.read_ports() == first
    with socket.create_server(("127.0.0.1", first.dashboard)):
        second = layout.choose_ports(settings)
    assert not set(range(first.dashboard, first.replica_last + 1)) & set(second.listened)


def test_blocks_stay_below_the_ephemeral_range() -> None:
    assert AuxiliaryPorts.in_block(20_000 + 95 * 128).replica_last < 32_768
