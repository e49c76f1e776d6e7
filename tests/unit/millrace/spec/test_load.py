"""From a file a person wrote to a spec, or to a message that says which field is wrong and what to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.errors import SpecError, UnknownNameError
from millrace.spec import PipelineSpec
from millrace.spec.load import load_spec, parse_spec, pipeline_dir, pipeline_names

Document = Callable[..., dict[str, Any]]


def refusal(document: object) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_spec(document)
    return caught.value


def write(root: Path, content: str | bytes, name: str = "tiny") -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "pipeline.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def file_refusal(root: Path, content: str | bytes) -> SpecError:
    with pytest.raises(SpecError) as caught:
        load_spec(write(root, content))
    return caught.value


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_a_file_and_its_json_give_the_same_spec(kind: str, spec_document: Document, tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, yaml.safe_dump(spec_document(kind))))
    assert spec.data.label.kind == kind
    assert list(spec.data.features) == ["colour", "size", "weight"], "safe_dump sorts; the file's order is kept"
    assert PipelineSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainig": {}}, "field 'trainig' is not known: did you mean 'training'?"),
        ({"training.epoch": 3}, "field 'training.epoch' is not known: did you mean 'epochs'?"),
        (
            {"monitoring.brakes.cooldown_days": 3.0},
            "field 'monitoring.brakes.cooldown_days' is not known: did you mean 'cool_down_days'?",
        ),
        (
            {"data.features.size.minimum": 3.0},
            "field 'data.features.size.minimum' is not known: did you mean 'min'?",
        ),
        (
            {"data.features.size.zzz": 3.0},
            "field 'data.features.size.zzz' is not known: one of: description, kind, max, min, nullable",
        ),
        (
            {"data.features.colour.nulable": True},
            "field 'data.features.colour.nulable' is not known: did you mean 'nullable'?",
        ),
        ({"data.label.klasses": []}, "field 'data.label.klasses' is not known: did you mean 'classes'?"),
    ],
)
def test_an_unknown_key_is_named_with_its_neighbour(
    change: dict[str, Any], message: str, spec_document: Document
) -> None:
    error = refusal(spec_document(change=change))
    assert message in error.what
    assert error.what.startswith("pipeline.yaml: 1 problem\n")
    assert error.next == "correct the file; `millrace schema` lists every field"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training.epochs": "five"}, "field 'training.epochs': got 'five', input should be a valid integer"),
        ({"training.epochs": 2.5}, "field 'training.epochs': got 2.5, input should be a valid integer"),
        ({"training.epochs": True}, "field 'training.epochs': got True, input should be a valid integer"),
        ({"training.epochs": 0}, "field 'training.epochs': got 0, input should be greater than or equal to 1"),
        ({"training.seed": 2**32}, "field 'training.seed': got 4294967296, input should be less than 4294967296"),
        ({"training.learning_rate": float("nan")}, "field 'training.learning_rate': got nan, input should be a finite"),
        ({"evaluation.window_days": float("inf")}, "field 'evaluation.window_days': got inf, input should be a finite"),
        ({"data.features.size.max": "10"}, "field 'data.features.size.max': got '10', input should be a valid number"),
        ({"data.features.size.kind": "number"}, "field 'data.features.size': got {'kind': 'number'"),
        ({"data.features.colour.values": [1, 2]}, "field 'data.features.colour.values.0': got 1, input should be"),
        ({"data.features": {}}, "field 'data.features': got {}, dictionary should have at least 1 item"),
        ({"data.source": "source.Generated"}, "field 'data.source': got 'source.Generated', string should match"),
        ({"data.partition": "year"}, "field 'data.partition': got 'year', input should be 'day', 'week' or 'month'"),
        ({"name": "Tiny-1"}, "field 'name': got 'Tiny-1', string should match pattern"),
        ({"training": [1]}, "field 'training': got [1], input should be a valid dictionary"),
        ({"costs.currency": "dollars"}, "field 'costs.currency': got 'dollars', string should match pattern"),
        ({"evaluation.metric": None}, "field 'evaluation.metric' is required and missing; add it"),
        ({"data": None}, "field 'data' is required and missing; add it"),
        ({"data.label.column": None}, "field 'data.label.column' is required and missing; add it"),
        ({"data.features.colour.values": None}, "field 'data.features.colour.values' is required and missing; add it"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    change: dict[str, Any], message: str, spec_document: Document
) -> None:
    assert message in refusal(spec_document(change=change)).what


def test_all_problems_are_told_at_once_and_many_are_counted(spec_document: Document) -> None:
    error = refusal(spec_document(change={"training.epochs": 0, "data.row_id": None, "owners": "me"}))
    assert error.what.startswith("pipeline.yaml: 3 problems")
    assert all(name in error.what for name in ("training.epochs", "data.row_id", "'owner'"))
    many = refusal(spec_document(change={f"unknown_{number}": 1 for number in range(11)}))
    assert many.what.startswith("pipeline.yaml: 11 problems")
    assert many.what.endswith("… and 3 more problems")


def test_a_long_value_is_cut(spec_document: Document) -> None:
    error = refusal(spec_document(change={"training.epochs": "x" * 5000}))
    assert len(error.what) < 300


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_a_document_that_is_no_mapping_is_told_the_sections(document: object) -> None:
    error = refusal(document)
    assert error.what == "pipeline.yaml must be a mapping of sections"
    assert "evaluation" in (error.allowed or "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(section=st.sampled_from(list(PipelineSpec.model_fields)), value=json_values)
@settings(max_examples=60, deadline=None)
def test_anything_in_a_section_is_a_spec_or_a_spec_error(section: str, value: Any, spec_document: Document) -> None:
    document = spec_document() | {section: value}
    try:
        spec = parse_spec(document)
    except SpecError as error:
        assert section in error.what
    else:
        assert PipelineSpec.model_validate_json(spec.model_dump_json()) == spec


# Files


@pytest.mark.parametrize(
    ("content", "key", "line"),
    [("name: tiny\nowner: me\nname: two\n", "name", 3), ("data:\n  features:\n    a: 1\n    a: 2\n", "a", 4)],
)
def test_a_key_written_twice_is_refused(content: str, key: str, line: int, tmp_path: Path) -> None:
    error = file_refusal(tmp_path, content)
    assert error.what == f"pipeline.yaml: key '{key}' appears twice"
    assert error.got == repr(f"line {line}")
    assert error.next == "keep one of the two"


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ("owner: me\nname: [tiny", "line 2, column 12: expected ',' or ']', but got '<stream end>'"),
        ("name: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("data:\n  source_options: {end: 2013-02-30}\n", "day is out of range"),
        (b"name: caf\xe9", "utf-8"),
        ("a: *nowhere", "undefined alias"),
        ("? [a, b]\n: 1\n", "unhashable key"),
    ],
)
def test_broken_yaml_says_where(content: str | bytes, got: str, tmp_path: Path) -> None:
    error = file_refusal(tmp_path, content)
    assert error.what == f"{tmp_path / 'tiny' / 'pipeline.yaml'} cannot be read"
    assert got in (error.got or "")
    assert error.next == "correct the YAML"


def test_an_empty_file_is_no_mapping(tmp_path: Path) -> None:
    assert "must be a mapping of sections" in file_refusal(tmp_path, "").what


def test_a_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "absent")
    assert str(caught.value) == (
        f"{tmp_path / 'absent' / 'pipeline.yaml'} does not exist\n  next: write one with `millrace new`"
    )


def test_the_name_must_be_the_folders(spec_document: Document, tmp_path: Path) -> None:
    folder = write(tmp_path, yaml.safe_dump(spec_document()), name="other")
    with pytest.raises(SpecError) as caught:
        load_spec(folder)
    assert caught.value.what == f"{folder / 'pipeline.yaml'}: field 'name' differs from its folder's"
    assert (caught.value.got, caught.value.allowed, caught.value.next) == ("'tiny'", "'other'", "rename one")


def test_names_are_the_folders_with_a_spec(tmp_path: Path) -> None:
    write(tmp_path, "", "late")
    write(tmp_path, "", "early")
    (tmp_path / "notes").mkdir()
    assert pipeline_names(tmp_path) == ["early", "late"]
    assert pipeline_dir("late", tmp_path) == tmp_path / "late"
    assert pipeline_names(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("name", "allowed"), [("lat", "did you mean 'late'?"), ("../late", None), ("zz", "one of: late")]
)
def test_an_unknown_pipeline_is_named_with_the_nearest(name: str, allowed: str | None, tmp_path: Path) -> None:
    write(tmp_path, "", "late")
    with pytest.raises(UnknownNameError) as caught:
        pipeline_dir(name, tmp_path)
    assert caught.value.what == f"no pipeline '{name}' in {tmp_path}"
    assert allowed is None or caught.value.allowed == allowed
    assert "MILLRACE_PIPELINES_DIR" in (caught.value.next or "")


def test_a_folder_without_pipelines_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="nothing is defined yet"):
        pipeline_dir("late", tmp_path)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"data.source_options": {"url": "postgresql://u:hush-hush@db/x"}}, "data.source_options.url"),
        ({"data.source_options": {"kind": "binary", "password": "hush-hush"}}, "data.source_options.password"),
        ({"model.options": {"hub": {"token": "hush-hush"}}}, "model.options.hub.token"),
        ({"description": "ask with api_key=hush-hush"}, "description"),
        # One that is of the wrong type too: what it got is not shown.
        ({"owner": ["password: hush-hush"]}, "owner[0]"),
    ],
)
def test_a_spec_holds_no_secret(spec_document: Document, change: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError, match="must not hold a secret") as caught:
        parse_spec(spec_document(change=change))
    assert f"{field} must not hold a secret" in str(caught.value)
    assert "${ENV:NAME}" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_reference_to_a_secret_and_a_column_of_that_name_are_none(spec_document: Document) -> None:
    options = {"kind": "binary", "password": "${ENV:DB_PASSWORD}", "url": "postgresql://u:${ENV:DB_PASSWORD}@db/x"}
    change = {"data.source_options": options, "data.features.password_age": {"kind": "numeric"}}
    assert parse_spec(spec_document(change=change)).data.source_options == options
