"""The requests that the serving benchmark compares servers by: what ours answers to each, without any other server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import httpx
import pytest

from benchmarks.serving import protocols
from benchmarks.serving.fixture import Fixture, make_fixture
from benchmarks.serving.in_process import served
from benchmarks.serving.protocol_answers import Answer, differences
from benchmarks.serving.protocol_cases import Case, cases
from benchmarks.serving.target import TOLERANCE


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Fixture:
    return make_fixture(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def asked(fixture: Fixture) -> list[Case]:
    return cases(protocols.MODEL, protocols.VERSION, fixture.shape, fixture.rows)


@pytest.fixture(scope="module")
def answered(fixture: Fixture, asked: list[Case]) -> Mapping[str, Answer]:
    with served(fixture) as target:
        return protocols.answers(target.url.removesuffix("/predict"), asked)


def test_good_ones_are_answered_and_bad_ones_refused_with_an_error(
    asked: list[Case], answered: Mapping[str, Answer]
) -> None:
    assert len({case.name for case in asked}) == len(asked) >= 70
    for case in asked:
        answer = answered[case.name]
        assert answer.kind == ("answered" if case.is_good else "refused"), case.name
        assert case.is_good or answer.error, case.name


def test_the_answers_are_the_models(fixture: Fixture, asked: list[Case], answered: Mapping[str, Answer]) -> None:
    for case in asked:
        if case.is_good and case.method == "POST" and case.name != "whole numbers":
            _, found = answered[case.name].cells["probability"]
            right = fixture.answers[: 1 if "one row" in case.name else None]
            assert found == pytest.approx(right, abs=TOLERANCE), case.name


def test_a_difference_is_found(asked: list[Case], answered: Mapping[str, Answer]) -> None:
    by_name = {case.name: case for case in asked}

    def found(name: str, theirs: Answer) -> list[str]:
        return [difference["what"] for difference in differences("peer", by_name[name], answered[name], theirs)]

    same = answered["an id"]
    assert found("an id", same) == []
    assert found("an id", replace(same, document=same.document | {"id": "yours"})) == [
        "id: ours 'mine/42', theirs 'yours'"
    ]
    (output,) = same.document["outputs"]
    wide = same.document | {"outputs": [output | {"datatype": "FP64"}]}
    assert found("an id", replace(same, document=wide))[0].startswith("outputs: ours {'probability': ('FP32', 1)}")
    moved = {"probability": (False, [cell + 1e-3 for cell in same.cells["probability"][1]])}
    assert len(found("an id", replace(same, cells=moved))) == 1
    assert found("an id", replace(same, cells={"probability": (True, same.cells["probability"][1])})) == [
        "probability: ours in JSON, theirs is not"
    ]
    failed = Answer(500, {"error": "Unable to parse 'inputs'"})
    (difference,) = differences("triton", by_name["no JSON"], answered["no JSON"], failed)
    assert difference["why"]
    (difference,) = differences("triton", by_name["an id"], same, failed)
    assert difference["why"] is None
    described = answered["model metadata"]
    inputs = [tensor | {"datatype": "INT8"} for tensor in described.document["inputs"][:1]]
    assert len(found("model metadata", replace(described, document={"inputs": inputs, "versions": ["1"]}))) == 1


def test_bytes_that_belong_to_no_output_are_found() -> None:
    headers = {"inference-header-content-length": "15"}
    with pytest.raises(ValueError, match="3 bytes"):
        Answer.of(httpx.Response(200, content=b'{"outputs": []}abc', headers=headers), is_inference=True)
