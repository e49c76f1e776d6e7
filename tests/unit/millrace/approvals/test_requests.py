"""A request from its question to its use: one at a time, answered once, used once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks.reliability.approvals import QUESTION, RULE, RUN, Scene
from millrace.approvals import approvers, requests
from millrace.approvals.code import sign
from millrace.errors import ApprovalError, ConflictError, MillraceError, UnknownNameError
from millrace.ledger import Fact, Ledger


def standing(scene: Scene) -> requests.Standing:
    return requests.standing_of(scene.ledger, scene.request, scene.now)


def test_the_same_question_is_one_request_whoever_asks_it_again(scene: Scene) -> None:
    again = requests.ask(scene.ledger, QUESTION, RULE, "run-2")
    assert again.request == scene.request
    assert [found.request for found in requests.pending(scene.ledger)] == [scene.request]
    assert requests.pending(scene.ledger, "other") == []


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "c" * 64},
        {"basis": "c" * 64},
        {"pipeline": "other"},
        {"action": "retrain"},
        {"requested_by": "person:x"},
    ],
)
def test_another_question_is_another_request(scene: Scene, change: dict[str, str]) -> None:
    other = requests.ask(scene.ledger, replace(QUESTION, **change), RULE, RUN)  # type: ignore[arg-type]
    assert other.request.id != scene.request.id


def test_an_approval_is_used_once_and_the_run_may_say_so_again(scene: Scene) -> None:
    scene.give(scene.code().text)
    approved = standing(scene)
    assert (approved.state, approved.reason, approved.approver) == ("approved", "approved by alice", "alice")
    assert approved.approves("whoever comes first")
    requests.use(scene.ledger, approved, RUN)
    requests.use(scene.ledger, approved, RUN)
    used = standing(scene)
    assert used.approves(RUN)
    assert not used.approves("run-2")
    with pytest.raises(ApprovalError, match="was used by another run"):
        requests.use(scene.ledger, approved, "run-2")
    again = requests.ask(scene.ledger, QUESTION, RULE, "run-2")
    assert again.is_open
    assert again.request.id != scene.request.id
    assert requests.ask(scene.ledger, QUESTION, RULE, RUN).request.id == again.request.id


def test_what_was_to_be_recorded_with_an_answer_is_not_when_another_run_has_used_it(scene: Scene) -> None:
    scene.give(scene.code().text)
    approved = standing(scene)
    requests.use(scene.ledger, approved, RUN, Fact("tiny", "accepted", "first", {}, RUN))
    with pytest.raises(ApprovalError, match="was used by another run"):
        requests.use(scene.ledger, approved, "run-2", Fact("tiny", "accepted", "second", {}, "run-2"))
    assert [entry.subject for entry in scene.ledger.entries("tiny", "accepted")] == ["first"]


@pytest.mark.parametrize("hours", [0.0, 48.0])
def test_an_approval_that_is_void_by_the_time_it_is_used_permits_nothing(scene: Scene, hours: float) -> None:
    """Its approver was removed, or it expired, between the look at it and its use."""
    scene.give(sign(scene.request, "approve", "bob", scene.bob, scene.now).text)
    approved = standing(scene)
    if not hours:
        approvers.remove(scene.ledger, "bob", "alice", scene.alice)
    later = scene.now + timedelta(hours=hours)
    with pytest.raises(ApprovalError, match="does not count any more"):
        requests.use(scene.ledger, approved, RUN, Fact("tiny", "accepted", "x", {}, RUN), now=later)
    assert scene.ledger.entries("tiny", requests.USED, "accepted") == []


def test_what_was_used_in_time_stays_approved_for_its_run(scene: Scene) -> None:
    """A run that was killed while it promoted goes on a week later, and its approver may have left."""
    scene.give(sign(scene.request, "approve", "bob", scene.bob, scene.now).text)
    requests.use(scene.ledger, standing(scene), RUN)
    approvers.remove(scene.ledger, "bob", "alice", scene.alice)
    scene.now += timedelta(days=7)
    assert standing(scene).approves(RUN)


def test_a_rejection_is_told_with_its_reason(scene: Scene) -> None:
    requests.decide(scene.ledger, scene.request, scene.code("reject").text, reason="not on a Friday", now=scene.now)
    found = standing(scene)
    assert (found.state, found.reason) == ("rejected", "rejected by alice (not on a Friday)")
    assert not found.approves(RUN)


def test_an_answered_request_takes_no_other_answer(scene: Scene) -> None:
    scene.give(scene.code("reject").text)
    with pytest.raises(ConflictError, match="is rejected"):
        scene.give(scene.code().text)


def test_without_an_answer_it_expires(scene: Scene) -> None:
    scene.now = scene.request.expires_at
    assert standing(scene).state == "expired"
    with pytest.raises(ConflictError, match="is expired"):
        scene.give(scene.code().text)


def test_wrong_codes_are_recorded_and_close_the_request(scene: Scene) -> None:
    for number in range(RULE.max_tries):
        assert standing(scene).is_open
        with pytest.raises(ApprovalError):
            requests.decide(scene.ledger, scene.request, f"wrong {number}", now=scene.now)
    found = standing(scene)
    assert (found.state, len(found.tries_refused)) == ("closed", RULE.max_tries)


def test_a_try_that_is_repeated_after_a_kill_is_one_try(scene: Scene) -> None:
    for _ in range(RULE.max_tries + 1):
        with pytest.raises(ApprovalError):
            requests.decide(scene.ledger, scene.request, "wrong", once="run-1:form-1", now=scene.now)
    assert len(standing(scene).tries_refused) == 1


def test_of_runs_that_use_an_approval_at_once_one_may(scene: Scene, tmp_path: Path) -> None:
    scene.give(scene.code().text)
    approved = standing(scene)

    def one(number: int) -> bool:
        with closing(Ledger(f"sqlite:///{tmp_path}/ledger.db")) as ledger:
            try:
                requests.use(ledger, approved, f"run-{number}")
            except MillraceError:
                return False
            return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(one, range(4))) == [False, False, False, True]


def test_a_run_goes_on_when_its_newest_request_is_answered_or_over(scene: Scene) -> None:
    assert not requests.may_go_on(scene.ledger, RUN, scene.now), "it waits for nothing of ours"
    requests.await_answer(scene.ledger, scene.request, RUN)
    assert requests.waiting_runs(scene.ledger, scene.request) == [RUN]
    assert not requests.may_go_on(scene.ledger, RUN, scene.now)
    assert requests.may_go_on(scene.ledger, RUN, scene.request.expires_at)
    scene.give(scene.code("reject").text)
    assert requests.may_go_on(scene.ledger, RUN, scene.now)


def test_a_request_that_does_not_exist_names_the_nearest(scene: Scene) -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        requests.find(scene.ledger, scene.request.id[:-1])
