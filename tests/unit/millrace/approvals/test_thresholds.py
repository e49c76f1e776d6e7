"""The values a decision rests on, before and after."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from millrace.approvals import thresholds
from millrace.errors import SpecError
from millrace.ledger import Ledger
from millrace.spec import PipelineSpec

MakeSpec = Callable[..., PipelineSpec]


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("evaluation.min_rows", 1, "evaluation.min_rows: 500 -> 1"),
        ("evaluation.confidence", 0.6, "evaluation.confidence: 0.9 -> 0.6"),
        ("monitoring.drift.max_drifted_share", 1.0, "monitoring.drift.max_drifted_share: 0.5 -> 1.0"),
        ("monitoring.quality.max_drop", 9.0, "monitoring.quality.max_drop: 0.03 -> 9.0"),
        ("monitoring.brakes.max_incidents", 0, "monitoring.brakes.max_incidents: 6 -> 0"),
        ("data.max_quarantined_share", 1.0, "data.max_quarantined_share: 0.01 -> 1.0"),
        ("serving.guard.watch_minutes", 1.0, "serving.guard.watch_minutes: 60.0 -> 1.0"),
        ("approvals.promote", True, "approvals.promote: False -> True"),
        ("approvals.expires_hours", 1.0, "approvals.expires_hours: 24.0 -> 1.0"),
    ],
)
def test_a_change_is_told_and_can_be_taken_back(make_spec: MakeSpec, field: str, value: object, told: str) -> None:
    before, after = make_spec(), make_spec(change={field: value})
    values = thresholds.thresholds(before)
    assert thresholds.differences(values, thresholds.thresholds(after)) == [told]
    assert thresholds.with_thresholds(after, values) == before


def test_what_no_decision_rests_on_is_no_threshold(make_spec: MakeSpec) -> None:
    changed = make_spec(change={"training.epochs": 50, "serving.replicas": 3, "description": "new"})
    assert thresholds.differences(thresholds.thresholds(make_spec()), thresholds.thresholds(changed)) == []


def test_values_that_do_not_fit_any_more_are_told(make_spec: MakeSpec) -> None:
    with pytest.raises(SpecError, match="roc_auc"):
        thresholds.with_thresholds(make_spec("regression"), thresholds.thresholds(make_spec("binary")))


def test_what_an_older_millrace_did_not_know_has_its_default(make_spec: MakeSpec) -> None:
    values = thresholds.thresholds(make_spec())
    older = {name: value for name, value in values.items() if name not in ("serving", "approvals")}
    changed = make_spec(change={"serving.replicas": 2})
    assert thresholds.with_thresholds(changed, older) == changed


def test_a_rollout_section_is_a_threshold_also_where_there_was_none(make_spec: MakeSpec) -> None:
    steps = [{"share": 0.1, "min_requests": 10}]
    spec = make_spec(change={"rollout": {"steps": steps}})
    before = thresholds.thresholds(make_spec())
    older = {name: value for name, value in before.items() if name != "rollout"}
    for values in (before, older):
        assert thresholds.with_thresholds(spec, values).rollout is None
    kept = thresholds.thresholds(thresholds.with_thresholds(spec, older))
    assert "rollout.alpha: (none) -> 0.01" in thresholds.differences(kept, thresholds.thresholds(spec))
    looser = make_spec(change={"rollout": {"steps": steps, "alpha": 0.1}})
    found = thresholds.differences(thresholds.thresholds(spec), thresholds.thresholds(looser))
    assert found == ["rollout.alpha: 0.01 -> 0.1"]


def test_the_newest_accepted_values_hold(make_spec: MakeSpec, ledger: Ledger) -> None:
    assert thresholds.accepted(ledger, "tiny") is None
    for min_rows in (500, 400, 500):
        spec = make_spec(change={"evaluation.min_rows": min_rows})
        for _ in range(2):
            fact = thresholds.acceptance(ledger, spec, "run-1", "because")
            ledger.append(fact, fact)
        held = thresholds.accepted(ledger, "tiny")
        assert held is not None
        assert held["evaluation"]["min_rows"] == min_rows


def test_a_guarded_change_is_not_in_force_before_it_is_accepted(make_spec: MakeSpec, ledger: Ledger) -> None:
    looser = {"serving.guard.max_failed_share": 0.9}
    assert thresholds.in_force(ledger, make_spec(change=looser)) == make_spec(change=looser), "nothing was accepted yet"
    guarded = make_spec(change={"approvals.change_threshold": True})
    ledger.append(thresholds.acceptance(ledger, guarded, "run-1", "the first"))
    assert thresholds.in_force(ledger, make_spec(change=looser)) == guarded
