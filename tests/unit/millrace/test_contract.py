"""The contract judges every row: the good ones keep it, each other one breaks the rule that it was told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.contract import REASON, check, known_at, quarantine_verdict, required_columns
from millrace.encoding import encode
from millrace.errors import SourceError
from millrace.spec import DataSpec, PipelineSpec
from millrace.window import Window

WINDOW = Window(datetime(2024, 1, 1), datetime(2024, 2, 1))
Spec = Callable[..., PipelineSpec]

rows_of_any_sort = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.none() | st.datetimes(datetime(2023, 12, 25), datetime(2024, 2, 7)),
            "id": st.none() | st.integers(0, 12),
            "size": st.none() | st.floats(-5, 15) | st.sampled_from([np.inf, "7", "much", 1e39, 0.0, 10.0]),
            "weight": st.none() | st.floats(allow_nan=True) | st.sampled_from(["1e3", "", True, 1e39]),
            "colour": st.none() | st.sampled_from(["red", "green", "blue", "violet", "", 3]),
            "answer": st.none() | st.sampled_from([0, 1, 0.0, 1.0, True, False, 2, "1", "no", np.inf]),
        }
    ),
    max_size=15,
)


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["at", "id", "size", "weight", "colour", "answer"], dtype=object)


def one(**change: Any) -> dict[str, Any]:
    return {
        "at": datetime(2024, 1, 5),
        "id": 1,
        "size": 3.0,
        "weight": 1.0,
        "colour": "red",
        "answer": 1.0,
    } | change


def as_number(value: Any) -> float:
    """What a cell says as a number; NaN where it says none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def breaks(row: dict[str, Any], reason: str, ids_before: list[Any]) -> bool:
    """Whether `row` really breaks the rule that `reason` names, judged without the code under test."""
    column, rule = reason.split(": ", 1)
    value = row[column]
    number = as_number(value)
    broken: dict[str, Callable[[], bool]] = {
        "missing": lambda: pd.isna(value),
        "outside the window": lambda: value not in WINDOW,
        "seen before": lambda: value in ids_before,
        "not a number": lambda: not pd.isna(value) and np.isnan(number),
        "not finite": lambda: abs(number) > float(np.finfo(np.float32).max),
        "below 0": lambda: number < 0,
        "above 10": lambda: number > 10,
        "not an allowed category": lambda: not pd.isna(value) and str(value) not in ("red", "green", "blue"),
        "no binary label": lambda: not pd.isna(value) and number not in (0.0, 1.0),
    }
    return broken[rule]()


@given(rows=rows_of_any_sort)
@settings(max_examples=150, deadline=None)
def test_rows_are_split_and_every_reason_is_true(rows: list[dict[str, Any]], make_spec: Spec) -> None:
    data = make_spec().data
    checked = check(table(rows), data, WINDOW)
    assert checked.num_rows == len(rows)
    assert list(checked.good.columns) == required_columns(data)
    assert list(checked.quarantined.columns) == [*required_columns(data), REASON]
    assert checked.quarantined[REASON].str.len().gt(0).all()
    bad = iter(checked.quarantined[REASON])
    good_ids = list(checked.good["id"])
    for position, row in enumerate(rows):
        before = [other["id"] for other in rows[:position]]
        if row["id"] is not None and row["id"] not in before and row["id"] in good_ids:
            continue
        reason = next(bad)
        assert breaks(row, reason, before), f"{row} was told '{reason}'"
    assert next(bad, None) is None


@given(rows=rows_of_any_sort)
@settings(max_examples=100, deadline=None)
def test_no_good_row_breaks_the_contract(rows: list[dict[str, Any]], make_spec: Spec) -> None:
    data = make_spec().data
    good = check(table(rows), data, WINDOW).good
    assert good["id"].is_unique
    assert good["id"].notna().all()
    assert all(moment in WINDOW for moment in good["at"])
    assert good["size"].between(0, 10).all(), "within its limits and not missing"
    assert good["colour"].dropna().isin(["red", "green", "blue"]).all()
    assert good["answer"].dropna().isin([0.0, 1.0]).all()
    assert not np.isinf(encode(good, data)["numeric"]).any()
    assert list(good["at"]) == sorted(good["at"])
    again = check(good, data, WINDOW)
    assert len(again.quarantined) == 0
    pd.testing.assert_frame_equal(again.good, good)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"at": None}, "at: missing"),
        ({"at": datetime(2024, 2, 1)}, "at: outside the window"),
        ({"at": datetime(2023, 12, 31, 23, 59)}, "at: outside the window"),
        ({"id": None}, "id: missing"),
        ({"size": None}, "size: missing"),
        ({"size": "much"}, "size: not a number"),
        ({"size": [1]}, "size: not a number"),
        ({"size": np.inf}, "size: not finite"),
        ({"weight": 1e39}, "weight: not finite"),
        ({"size": -0.1}, "size: below 0"),
        ({"size": 10.1}, "size: above 10"),
        ({"colour": "violet"}, "colour: not an allowed category"),
        ({"answer": 0.5}, "answer: no binary label"),
        ({"answer": "yes"}, "answer: no binary label"),
        ({"at": None, "size": 99}, "at: missing"),
    ],
)
def test_the_first_broken_rule_is_the_reason(change: dict[str, Any], reason: str, make_spec: Spec) -> None:
    checked = check(table([one(), one(id=2) | change]), make_spec().data, WINDOW)
    assert list(checked.quarantined[REASON]) == [reason]
    assert list(checked.good["id"]) == [1]


def test_the_first_of_two_rows_with_one_id_stays(make_spec: Spec) -> None:
    checked = check(table([one(size=1.0), one(size=2.0)]), make_spec().data, WINDOW)
    assert checked.good["size"].tolist() == [1.0]
    assert checked.quarantined[[REASON, "size"]].values.tolist() == [["id: seen before", 2.0]]


@pytest.mark.parametrize("change", [{"size": 0}, {"size": "10"}, {"weight": None}, {"colour": None}, {"answer": None}])
def test_what_the_contract_allows_is_good(change: dict[str, Any], make_spec: Spec) -> None:
    checked = check(table([one() | change]), make_spec().data, WINDOW)
    assert list(checked.quarantined[REASON]) == []
    assert checked.unlabelled == ("answer" in change)


def test_an_open_feature_takes_any_category(make_spec: Spec) -> None:
    data = make_spec(change={"data.features.colour.open": True, "data.features.colour.nullable": False}).data
    checked = check(table([one(colour="violet"), one(id=2, colour=None)]), data, WINDOW)
    assert checked.good["colour"].tolist() == ["violet"]
    assert list(checked.quarantined[REASON]) == ["colour: missing"]


@pytest.mark.parametrize(
    ("kind", "change", "good", "bad"),
    [
        ("multiclass", {}, ["low", "high", None], ["other", 1]),
        ("regression", {}, [1, -2.5, "3", None], ["many", np.inf]),
        ("binary", {"data.label.positive": "yes"}, ["yes", "no", "maybe", None], []),
    ],
)
def test_labels_of_each_kind(
    kind: str, change: dict[str, Any], good: list[Any], bad: list[Any], make_spec: Spec
) -> None:
    rows = table([one(id=number, answer=answer) for number, answer in enumerate([*good, *bad])])
    checked = check(rows, make_spec(kind, change).data, WINDOW)
    assert list(checked.good["id"]) == list(range(len(good)))
    assert set(checked.quarantined[REASON]) == ({f"answer: no {kind} label"} if bad else set())
    assert checked.unlabelled == 1


def test_an_empty_table_has_nothing_wrong(make_spec: Spec) -> None:
    checked = check(table([]), make_spec().data, WINDOW)
    assert (checked.num_rows, checked.unlabelled) == (0, 0)


def test_the_given_table_is_left_as_it_was(make_spec: Spec) -> None:
    rows = table([one(size="7"), one(id=2, at=None)])
    before = rows.copy(deep=True)
    check(rows, make_spec().data, WINDOW)
    pd.testing.assert_frame_equal(rows, before)


def test_times_of_other_zones_are_moved(make_spec: Spec) -> None:
    rows = table([one(at=pd.Timestamp("2024-01-31 23:30", tz="America/New_York"))])
    checked = check(rows, make_spec().data, WINDOW)
    assert list(checked.quarantined[REASON]) == ["at: outside the window"]
    assert str(checked.quarantined["at"].iloc[0]) == "2024-02-01 04:30:00+00:00"


# Tables that cannot be judged at all


def refusal(rows: pd.DataFrame, data: DataSpec) -> SourceError:
    with pytest.raises(SourceError) as caught:
        check(rows, data, WINDOW)
    return caught.value


def test_missing_columns_are_named(make_spec: Spec) -> None:
    error = refusal(table([one()]).drop(columns=["size", "answer"]), make_spec().data)
    assert error.what == "source:Generated gives no column size, answer"
    assert error.got == "['at', 'id', 'weight', 'colour']"
    assert error.allowed == "id, at, size, weight, colour, answer"
    assert error.next == "correct the source, or the names in pipeline.yaml's data section"


def test_a_column_that_comes_twice_is_named(make_spec: Spec) -> None:
    rows = table([one()])
    error = refusal(pd.concat([rows, rows[["size"]]], axis=1), make_spec().data)
    assert error.what == "source:Generated gives column size twice"


def test_times_that_are_none_are_refused(make_spec: Spec) -> None:
    error = refusal(table([one(at="soon")]), make_spec().data)
    assert error.what == "source:Generated: column 'at' holds no times"
    assert "soon" in (error.got or "")


@pytest.mark.parametrize("other", ["b", [1]])
def test_ids_of_two_types_are_refused(other: Any, make_spec: Spec) -> None:
    error = refusal(table([one(id=1), one(id=other)]), make_spec().data)
    assert error.what == "source:Generated: column 'id' holds values of more than one type"
    assert error.next == "give all ids as text, or all as whole numbers"


# Labels that come late


def test_an_outcome_is_known_at_its_own_time_or_the_events(make_spec: Spec) -> None:
    late = make_spec(change={"data.label.known_at": "told"}).data
    rows = table([one(), one(id=2, answer=None)]).assign(told=datetime(2024, 3, 1))
    good = check(rows, late, WINDOW).good
    moments = known_at(good, late)
    assert moments.iloc[0] == datetime(2024, 3, 1, tzinfo=UTC)
    assert pd.isna(moments.iloc[1])
    assert known_at(good, make_spec().data).iloc[0] == datetime(2024, 1, 5, tzinfo=UTC)


def test_the_events_own_time_may_be_named_as_known_at(make_spec: Spec) -> None:
    data = make_spec(change={"data.label.known_at": "at"}).data
    assert required_columns(data) == required_columns(make_spec().data)
    assert len(check(table([one()]), data, WINDOW).good) == 1


# The verdict


@pytest.mark.parametrize(("bad", "passed"), [(10, True), (11, False)])
def test_the_verdict_compares_the_share_with_its_limit(bad: int, passed: bool, make_spec: Spec) -> None:
    reasons = {"a: missing": 1, "b: missing": 4, "c: missing": bad - 7, "d: missing": 2}
    verdict = quarantine_verdict(1000, reasons, make_spec().data)
    assert (verdict.passed, verdict.observed, verdict.threshold) == (passed, bad / 1000, 0.01)
    assert verdict.reasons[0] == f"{bad} of 1,000 rows quarantined ({bad / 1000:.2%}, at most 1.00% allowed)"
    assert verdict.reasons[1:] == ("b: missing (4)", f"c: missing ({bad - 7})", "d: missing (2)")
    assert verdict.evidence == {"reasons": reasons}


def test_no_rows_at_all_do_not_pass(make_spec: Spec) -> None:
    verdict = quarantine_verdict(0, {}, make_spec().data)
    assert not verdict.passed
    assert verdict.summary == "contract: failed - the source has no rows in this window"
