"""A pipeline learns from a table, which need not be said, or from texts; what is only for one is not for the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from millrace.errors import ConfigError, SpecError
from millrace.spec import PipelineSpec, TableSpec, TextSpec
from millrace.spec.load import parse_spec
from tests.prose import document


def refusal(found: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(found)
    return caught.value.what


def test_without_a_word_it_is_a_table(spec_document: Callable[..., dict[str, Any]]) -> None:
    plain, said = parse_spec(spec_document()), parse_spec(spec_document(change={"data.kind": "table"}))
    assert plain == said
    assert isinstance(plain.data, TableSpec)
    assert plain.table is plain.data
    assert plain.is_served


def test_texts_are_said_to_be_some_and_come_back_from_json() -> None:
    spec = parse_spec(document())
    assert isinstance(spec.data, TextSpec)
    assert spec.texts is spec.data
    assert not spec.is_served
    assert PipelineSpec.model_validate_json(spec.model_dump_json()) == spec


def test_what_needs_a_table_says_so() -> None:
    with pytest.raises(ConfigError) as caught:
        _ = parse_spec(document()).table
    error = caught.value
    assert "'prose' learns from texts" in error.what
    assert (error.got, error.allowed) == ("'data.kind text'", "a pipeline whose data.kind is table")
    assert "millrace run prose" in str(error.next)


def test_what_needs_texts_says_so(make_spec: Callable[..., PipelineSpec]) -> None:
    with pytest.raises(ConfigError, match="learns from a table"):
        _ = make_spec().texts


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data.kind": "image"}, "field 'data': got {'kind': 'image'"),
        ({"data.kind": "image"}, "kind is table or text"),
        ({"data.kind": ["text"]}, "kind is table or text"),
        ({"data.label": {"column": "a", "kind": "binary"}}, "field 'data.label' is not known"),
        ({"data.sequence_lenght": 8}, "field 'data.sequence_lenght' is not known: did you mean 'sequence_length'?"),
        ({"data.sequence_length": 4}, "field 'data.sequence_length': got 4"),
        ({"data.text": "at"}, "must be three columns"),
        ({"evaluation.metric": "rmse"}, "'rmse' does not fit data.kind 'text'; use one of: bits_per_byte"),
        ({"evaluation.slices": ["a"]}, "evaluation.slices names 'a'"),
        ({"rollout": {}}, "models of texts are not served; remove the section"),
    ],
)
def test_what_does_not_fit_texts_is_refused(change: dict[str, Any], told: str) -> None:
    assert told in refusal(document(change))


def test_a_table_is_not_judged_as_texts_are(spec_document: Callable[..., dict[str, Any]]) -> None:
    told = refusal(spec_document(change={"evaluation.metric": "bits_per_byte"}))
    assert "does not fit data.label.kind 'binary'" in told
