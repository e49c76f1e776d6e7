"""What a flow does while it asks a person, without Prefect: the form and the suspension are doubles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from millrace.approvals import approvers, requests, thresholds
from millrace.approvals.code import Answer, sign
from millrace.approvals.keys import PrivateKey
from millrace.errors import ApprovalError, ConfigError, ConflictError
from millrace.gate import Evaluation
from millrace.ledger import Ledger
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.verdict import Verdict
from millrace.window import Window
from tasks import approval, artifacts
from tasks.registry import Version
from tasks.run import Run
from tasks.suspending import Filled

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)
VERDICT = Verdict("promotion", True, "roc_auc", 0.8, 0.7, ("better",))


class Suspended(BaseException):
    """Stands for the end of the process."""


@dataclass
class Person:
    """Who fills in forms, and answers at a terminal."""

    ledger: Ledger
    key: PrivateKey
    forms: list[Filled] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    def code(self, answer: Answer = "approve") -> str:
        (open_one,) = requests.pending(self.ledger)
        return sign(open_one.request, answer, "alice", self.key, datetime.now(UTC)).text

    def fill(self, **values: str) -> None:
        self.forms.append(Filled(f"form-{len(self.forms)}-response", values))

    def answers(self, answer: Answer) -> None:
        (open_one,) = requests.pending(self.ledger)
        requests.decide(self.ledger, open_one.request, self.code(answer))


@pytest.fixture
def ledger(local_settings: Settings) -> Iterator[Ledger]:
    with closing(Ledger(local_settings.ledger)) as made:
        yield made


@pytest.fixture
def person(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Person:
    key = PrivateKey.new()
    approvers.add(ledger, "alice", key.public, "alice", "alice", key)
    made = Person(ledger, key)

    def suspend(form: Any, about: str) -> None:
        made.asked.append(form._description)
        raise Suspended

    monkeypatch.setattr(approval, "suspend", suspend)
    monkeypatch.setattr(approval, "filled_forms", lambda _about: made.forms)
    monkeypatch.setattr(approval.deployment, "get_id", lambda: "a deployment")
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda **named: made.shown.append(named["markdown"]))
    return made


@pytest.fixture
def make_run(
    write_pipeline: Callable[..., Pipeline], tmp_path: Path, local_settings: Settings, ledger: Ledger
) -> Callable[..., Run]:
    def make(identity: str = "run-1", requested_by: str | None = "millrace", **change: Any) -> Run:
        pipeline = write_pipeline(tmp_path, change={name.replace("__", "."): value for name, value in change.items()})
        run = Run(local_settings, pipeline, identity, AS_OF, requested_by=requested_by)
        taken = ledger.slots.take("tiny", "training", identity, instead_of=ledger.slots.holder("tiny", "training"))
        return replace(run, token=taken)  # type: ignore[arg-type]

    return make


@pytest.fixture
def version(local_settings: Settings, monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., Run]) -> Version:
    """A registered version whose package lies in the store."""
    package = make_run().store.publish("packages/tiny/one", {"weights": b"1"})
    found = Version("tiny", "2", package.key, package.digest, (), 0.0, "mlflow-run", {})

    class Registered:
        known = found

        def __init__(self, _settings: Settings) -> None:
            pass

        def url(self, _version: Version) -> str:
            return "http://registry"

        def version(self, _name: str, _version: str) -> Version:
            return self.known

    monkeypatch.setattr(approval, "Registry", Registered)
    return found


def evaluation(passed: bool = True) -> Evaluation:
    metrics = {"challenger": {"roc_auc": 0.8}, "baseline": {"roc_auc": 0.5}}
    window = Window(AS_OF - timedelta(days=14), AS_OF)
    return Evaluation(window, 900, metrics, {}, (), None, None, "1", replace(VERDICT, passed=passed))


# A promotion


def test_nothing_is_asked_where_the_spec_asks_for_nothing(
    make_run: Callable[..., Run], version: Version, person: Person
) -> None:
    run = make_run()
    assert approval.approved_evaluation(run, version, evaluation()) == evaluation()
    assert approval.use_approval(run, version, evaluation()) is None
    assert approval.refused_training(run, None) is None
    assert requests.requests(run.ledger) == []


def test_what_failed_its_gate_is_not_asked_about(
    make_run: Callable[..., Run], version: Version, person: Person
) -> None:
    run = make_run(approvals__promote=True)
    assert approval.approved_evaluation(run, version, evaluation(False)) == evaluation(False)
    assert requests.requests(run.ledger) == []


def test_it_waits_with_the_evidence_and_goes_on_with_the_answer(
    make_run: Callable[..., Run], version: Version, person: Person
) -> None:
    run = make_run(approvals__promote=True)
    with pytest.raises(Suspended):
        approval.approved_evaluation(run, version, evaluation())
    assert requests.may_go_on(run.ledger, run.id) is False
    for text in (person.asked[0], person.shown[0]):
        for told in (version.package_digest, "promotion: passed - better", "http://registry", "millrace approve ask-"):
            assert told in text
    person.answers("approve")
    assert requests.may_go_on(run.ledger, run.id) is True
    assert approval.approved_evaluation(run, version, evaluation()) == evaluation()
    used = approval.use_approval(run, version, evaluation())
    assert used is not None
    assert approval.use_approval(run, version, evaluation()) == used, "a run that was killed says it again"
    assert len(person.asked) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"decision": "approve", "code": "nonsense"},
        {"decision": "perhaps", "code": ""},
        {"decision": "approve"},
        {},
        {"decision": "approve", "code": "x" * 1000},
        {"decision": "approve", "code": "", "extra": "field"},
    ],
)
def test_bad_input_asks_again_and_loses_nothing(
    make_run: Callable[..., Run], version: Version, person: Person, values: dict[str, str]
) -> None:
    run = make_run(approvals__promote=True)
    with pytest.raises(Suspended):
        approval.approved_evaluation(run, version, evaluation())
    person.fill(**values)
    for _ in range(2):  # once more after a kill: the same form is one try
        with pytest.raises(Suspended):
            approval.approved_evaluation(run, version, evaluation())
    assert "Not taken: this is no approval code" in person.asked[-1]
    assert "4 tries left" in person.asked[-1]
    person.fill(decision="approve", code=person.code())
    assert approval.approved_evaluation(run, version, evaluation()) == evaluation()


def test_too_many_wrong_codes_keep_the_champion(make_run: Callable[..., Run], version: Version, person: Person) -> None:
    run = make_run(approvals__promote=True, approvals__max_tries=2)
    with pytest.raises(Suspended):
        approval.approved_evaluation(run, version, evaluation())
    good = person.code()
    for code in ("one", "two", good):
        person.fill(decision="approve", code=code)
    refused = approval.approved_evaluation(run, version, evaluation())
    assert not refused.verdict.passed
    assert refused.verdict.reasons == ("closed after 2 codes that do not count", "better")


def test_a_rejection_fails_the_verdict(make_run: Callable[..., Run], version: Version, person: Person) -> None:
    run = make_run(approvals__promote=True)
    with pytest.raises(Suspended):
        approval.approved_evaluation(run, version, evaluation())
    person.answers("reject")
    for _ in range(2):
        refused = approval.approved_evaluation(run, version, evaluation())
        assert (refused.verdict.gate, refused.verdict.passed) == ("approval", False)
        assert refused.verdict.reasons == ("rejected by alice", "better")
    with pytest.raises(ApprovalError, match="may not serve: rejected by alice"):
        approval.use_approval(run, version, evaluation())


def test_a_time_out_fails_the_verdict(make_run: Callable[..., Run], version: Version, person: Person) -> None:
    run = make_run(approvals__promote=True, approvals__expires_hours=1e-9)
    refused = approval.approved_evaluation(run, version, evaluation())
    assert not refused.verdict.passed
    assert refused.verdict.reasons[0].startswith("approval expired")


def test_a_package_that_changed_since_does_not_serve(
    make_run: Callable[..., Run], version: Version, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(approvals__promote=True)
    with pytest.raises(Suspended):
        approval.approved_evaluation(run, version, evaluation())
    person.answers("approve")
    changed = replace(version, package_digest="c" * 64)
    with pytest.raises(ApprovalError, match="nobody was asked"):
        approval.use_approval(run, changed, evaluation())
    monkeypatch.setattr(approval.Registry, "known", changed)
    with pytest.raises(ApprovalError, match="has changed in the registry since it was approved"):
        approval.use_approval(run, version, evaluation())
    monkeypatch.setattr(approval.Registry, "known", version)
    other = run.store.publish("packages/tiny/two", {"weights": b"2"})
    moved = replace(version, package_key=other.key)
    with pytest.raises(ApprovalError, match="has changed in the object store since it was approved"):
        approval.use_approval(run, moved, evaluation())
    assert approval.use_approval(run, version, evaluation()) is not None


def test_another_verdict_is_asked_about_again(make_run: Callable[..., Run], version: Version, person: Person) -> None:
    run = make_run(approvals__promote=True)
    with pytest.raises(Suspended):
        approval.approved_evaluation(run, version, evaluation())
    person.answers("approve")
    with pytest.raises(Suspended):
        approval.approved_evaluation(run, version, replace(evaluation(), num_rows=1))
    assert len(requests.requests(run.ledger)) == 2


def test_a_run_of_no_deployment_ends_and_says_how_to_go_on(
    make_run: Callable[..., Run], version: Version, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval.deployment, "get_id", lambda: None)
    with pytest.raises(ConflictError, match="a person must approve") as caught:
        approval.approved_evaluation(make_run("local-1", approvals__promote=True), version, evaluation())
    assert "millrace approve ask-" in str(caught.value.next)
    person.answers("approve")
    again = make_run("local-2", approvals__promote=True)
    assert approval.approved_evaluation(again, version, evaluation()) == evaluation()


def test_a_question_that_nobody_asks_is_not_asked(
    make_run: Callable[..., Run], version: Version, person: Person
) -> None:
    run = make_run(requested_by=None, approvals__promote=True, approvals__retrain=True)
    with pytest.raises(ConfigError, match="nobody is named who asks"):
        approval.approved_evaluation(run, version, evaluation())
    with pytest.raises(ConfigError, match="nobody is named who asks"):
        approval.refused_training(run, None)


# A training


def test_a_training_waits_and_is_bound_to_its_code(make_run: Callable[..., Run], person: Person) -> None:
    run = make_run(approvals__retrain=True)
    with pytest.raises(Suspended):
        approval.refused_training(run, "incident-1")
    person.answers("approve")
    (run.pipeline.folder / "model.py").write_text("changed = True\n")
    changed = make_run(approvals__retrain=True)
    (changed.pipeline.folder / "model.py").write_text("changed = True\n")
    with pytest.raises(Suspended):
        approval.refused_training(replace(changed, pipeline=replace(changed.pipeline)), "incident-1")
    assert approval.refused_training(run, "incident-1") is None
    assert approval.refused_training(run, "incident-1") is None


def test_a_rejected_training_says_why(make_run: Callable[..., Run], person: Person) -> None:
    run = make_run(approvals__retrain=True)
    with pytest.raises(Suspended):
        approval.refused_training(run, None)
    person.answers("reject")
    assert approval.refused_training(run, None) == "rejected by alice"
    assert approval.refused_training(run, None) == "rejected by alice"


# Thresholds

GUARDED = {"approvals__change_threshold": True}


def test_the_first_thresholds_are_accepted_as_they_are(make_run: Callable[..., Run], person: Person) -> None:
    run = make_run(**GUARDED)
    assert approval.approved_thresholds(run) is run
    assert approval.accepted_thresholds(run) is run
    assert len(run.ledger.entries("tiny", thresholds.ACCEPTED)) == 1


def test_without_a_guard_a_change_is_recorded_and_holds(make_run: Callable[..., Run], person: Person) -> None:
    approval.approved_thresholds(make_run())
    run = make_run(evaluation__min_rows=1)
    assert approval.approved_thresholds(run) is run
    assert [e.detail["because"] for e in run.ledger.entries("tiny", thresholds.ACCEPTED)] == [
        "the first",
        "no approval is asked for",
    ]


@pytest.mark.parametrize(
    "change",
    [{"evaluation__min_rows": 1}, {"approvals__change_threshold": False}, {"data__max_quarantined_share": 1.0}],
)
def test_a_guarded_change_waits_also_when_it_removes_the_guard(
    make_run: Callable[..., Run], person: Person, change: dict[str, Any]
) -> None:
    before = make_run(**GUARDED)
    approval.approved_thresholds(before)
    run = make_run("run-2", **{**GUARDED, **change})
    with pytest.raises(Suspended):
        approval.approved_thresholds(run)
    held = approval.accepted_thresholds(make_run("run-3", **{**GUARDED, **change}))
    assert held.pipeline.spec == before.pipeline.spec, "a check goes on by the thresholds before"
    assert len(requests.requests(run.ledger)) == 1, "it is one question"
    person.answers("approve")
    assert approval.approved_thresholds(run) is run
    newest = thresholds.accepted(run.ledger, "tiny")
    assert newest == thresholds.thresholds(run.pipeline.spec)
    assert approval.accepted_thresholds(run) is run


def test_a_rejected_change_stops_trainings_but_no_check(make_run: Callable[..., Run], person: Person) -> None:
    before = make_run(**GUARDED)
    approval.approved_thresholds(before)
    run = make_run("run-2", **GUARDED, evaluation__min_rows=1)
    with pytest.raises(Suspended):
        approval.approved_thresholds(run)
    person.answers("reject")
    for _ in range(2):
        with pytest.raises(ApprovalError, match="are not accepted: rejected by alice") as caught:
            approval.approved_thresholds(run)
        assert "evaluation.min_rows: 500 -> 1" in str(caught.value.got)
    held = approval.accepted_thresholds(make_run("run-3", **GUARDED, evaluation__min_rows=1))
    assert held.pipeline.spec == before.pipeline.spec
