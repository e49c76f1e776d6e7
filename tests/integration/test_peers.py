"""A peer of the serving benchmark as real processes: right answers, wrong ones, none, and nothing left behind."""

from __future__ import annotations

import sys
from dataclasses import replace

import psutil
import pytest

from benchmarks.serving.calls import open_loop_plan, start_client
from benchmarks.serving.fixture import Fixture, make_fixture
from benchmarks.serving.peers import process
from benchmarks.serving.peers.environment import PeerError
from benchmarks.serving.peers.registry import FASTAPI, Peer, Place, running_python
from benchmarks.serving.target import WrongAnswerError

#: The framework is in this environment too; what is installed elsewhere is not the matter here.
HERE = replace(FASTAPI, python=running_python)


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Fixture:
    return make_fixture(tmp_path_factory.mktemp("model"), versions=2)


def left_behind() -> list[int]:
    return [found.pid for found in psutil.process_iter() if marked(found)]


def marked(found: psutil.Process) -> bool:
    try:
        return process._MARK in found.environ()
    except psutil.Error:
        return False


def test_a_peer_answers_as_the_model_and_is_gone_afterwards(fixture: Fixture) -> None:
    with process.serving(HERE, fixture) as target:
        target.check()
        with start_client(target, open_loop_plan(20, 1000, seed=1)) as client:
            client.wait_for_answers(5)
            client.stop()
            found = client.result()
        # One with other weights is found out.
        with pytest.raises(WrongAnswerError):
            replace(target, fixture=wrong(fixture)).check()
    assert found["requests"] >= 5
    assert (found["failed"], found["problems"]) == (0, {})
    assert left_behind() == []
    assert not target.answers()


def wrong(fixture: Fixture) -> Fixture:
    other = replace(fixture)
    other.__dict__["answers"] = fixture.model(2).predict_rows(fixture.rows)
    return other


def test_a_peer_that_ends_says_why_and_what_left_its_group_is_ended_too(fixture: Fixture) -> None:
    child = "import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True); sys.exit('no model')"

    def command(place: Place) -> list[str]:
        return [sys.executable, "-c", child]

    with pytest.raises(PeerError, match=r"doomed ended with status 1: no model"):
        start(Peer("doomed", command, python=running_python), fixture)
    assert left_behind() == []


def test_a_failed_preparation_says_why(fixture: Fixture) -> None:
    doomed = replace(HERE, prepare=lambda place: [sys.executable, "-c", "raise SystemExit('no disk')"])
    with pytest.raises(PeerError, match="no disk"):
        start(doomed, fixture)


def start(peer: Peer, fixture: Fixture) -> None:
    with process.serving(peer, fixture) as target:
        raise AssertionError(f"{target.url} answers")
