"""Each section refuses what contradicts itself, and says what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from millrace.errors import SpecError
from millrace.spec import HIGHER_IS_BETTER, METRICS, PipelineSpec
from millrace.spec.load import parse_spec

Document = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("binary", {"data.features.size.min": 11.0}, "in 'data.features.size': min 11 is above max 10; swap them"),
        (
            "binary",
            {"data.features.colour.values": ["red", "blue", "red"]},
            "in 'data.features.colour': values are listed twice: red; remove the repeats",
        ),
        ("multiclass", {"data.label.classes": ["low", "low", "high"]}, "data.label.classes are listed twice: low"),
        ("multiclass", {"data.label.classes": ["low"]}, "a multiclass label needs at least two classes"),
        ("binary", {"data.label.classes": ["a", "b"]}, "a binary label has no classes; remove data.label.classes"),
        ("regression", {"data.label.positive": "yes"}, "a regression label has no positive value; remove"),
        ("binary", {"data.label.column": "size"}, "feature 'size' is also data.label.column; a model must not see it"),
        ("binary", {"data.event_time": "size"}, "feature 'size' is also data.event_time"),
        ("binary", {"data.row_id": "size"}, "feature 'size' is also data.row_id"),
        ("binary", {"data.label.known_at": "size"}, "feature 'size' is also data.label.known_at"),
        ("binary", {"data.label.column": "id"}, "data.label.column 'id' is also data.row_id; name a column of its own"),
        ("binary", {"data.row_id": "at"}, "data.row_id 'at' is also data.event_time"),
        ("binary", {"data.label.known_at": "answer"}, "data.label.known_at 'answer' is also data.label.column"),
        (
            "regression",
            {"evaluation.metric": "roc_auc"},
            "evaluation.metric 'roc_auc' does not fit data.label.kind 'regression'; use one of: rmse, mae",
        ),
        (
            "binary",
            {"evaluation.slices": ["size"]},
            "evaluation.slices names 'size', which is no categorical feature; use some of: colour",
        ),
        (
            "binary",
            {"training.lookback_days": 7.0},
            "training.lookback_days 7 leaves nothing before the validation_days 7; raise lookback_days",
        ),
        (
            "binary",
            {"training.batch_size": 2, "training.num_workers": 3},
            "training.batch_size 2 is below num_workers 3; each worker needs at least one row a step",
        ),
        (
            "binary",
            {"training.num_workers": 2, "training.min_workers": 3},
            "min_workers (3) is above num_workers (2); lower it or leave it out",
        ),
        (
            "binary",
            {"training.num_workers": 2, "training.min_workers": 1, "training.layout": {"data_parallel_replicate": 2}},
            "min_workers lets the number of workers change, and the layout fixes it",
        ),
        (
            "binary",
            {"monitoring.brakes.bad_windows": 4},
            "bad_windows 4 is above of_windows 3, so no incident could ever open",
        ),
    ],
)
def test_a_contradiction_is_refused(kind: str, change: dict[str, Any], message: str, spec_document: Document) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(spec_document(kind, change))
    assert message in caught.value.what


@pytest.mark.parametrize(
    "change",
    [
        {"data.features.size.min": 10.0},
        {"training.lookback_days": 7.5},
        {"training.batch_size": 3, "training.num_workers": 3},
        {"monitoring.brakes.bad_windows": 3},
        {"training.num_workers": 2, "training.min_workers": 1, "training.layout": {"data_parallel_shard": -1}},
        {"data.label.known_at": "at"},
        {"evaluation.slices": ["colour"]},
        {"data.label.positive": "yes"},
        {"data.features.size.max": 7},
    ],
)
def test_what_only_looks_like_a_contradiction_is_accepted(change: dict[str, Any], spec_document: Document) -> None:
    parse_spec(spec_document(change=change))


def test_a_spec_does_not_change(make_spec: Callable[..., PipelineSpec]) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make_spec().training.epochs = 7


def test_outputs_follow_the_label(make_spec: Callable[..., PipelineSpec]) -> None:
    assert [make_spec(kind).data.label.outputs for kind in ("binary", "multiclass", "regression")] == [1, 3, 1]


def test_features_are_told_apart_in_the_specs_order(make_spec: Callable[..., PipelineSpec]) -> None:
    data = make_spec().data
    assert data.numeric == ("size", "weight")
    assert data.categorical == ("colour",)


def test_every_metric_fits_a_kind_and_has_a_direction() -> None:
    named = {metric for metrics in METRICS.values() for metric in metrics}
    assert named >= HIGHER_IS_BETTER
    assert named - HIGHER_IS_BETTER == {"log_loss", "rmse", "mae", "bits_per_byte"}


def fields(model: type[BaseModel]) -> Iterator[tuple[str, dict[str, Any]]]:
    schema = model.model_json_schema()
    for name, part in {"PipelineSpec": schema, **schema["$defs"]}.items():
        for field, detail in part["properties"].items():
            # pydantic leaves a field's description out where it repeats its section's.
            section = schema["$defs"].get(detail.get("$ref", "").removeprefix("#/$defs/"), {})
            yield f"{name}.{field}", section | detail


def test_every_field_of_the_json_schema_has_a_description() -> None:
    # `kind` is the tag of a union: its section's description speaks for it.
    bare = [name for name, detail in fields(PipelineSpec) if not detail.get("description") and "const" not in detail]
    assert bare == []
    assert len(list(fields(PipelineSpec))) > 60


def test_the_json_schema_refuses_unknown_keys() -> None:
    schema = PipelineSpec.model_json_schema()
    assert all(part["additionalProperties"] is False for part in (schema, *schema["$defs"].values()))


def test_a_spec_of_before_is_read(spec_document: Document) -> None:
    """Packages keep theirs: a champion of before an update goes on answering."""
    old = spec_document("binary", {"training.patience_epochs": 7, "training.checkpoint_every_epochs": 2})
    spec = parse_spec(old).training
    assert spec.patience == 7
    assert spec.checkpoint_every_steps is None
