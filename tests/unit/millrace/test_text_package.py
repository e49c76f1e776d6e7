"""A language model's package answers as its trainer did, or it is not loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from millrace.errors import ConfigError, MillraceError, PackageError
from millrace.language_model import LanguageModel
from millrace.package import load_predictor
from millrace.package_files import CARD, PROBE, SPEC, WEIGHTS, card_text, package_spec
from millrace.pipeline import Pipeline
from millrace.storage import Artifact, ObjectStore
from millrace.text_package import load_language_model, publish_text_package
from millrace.texts import END, encode

EXAMPLES = [encode(f"document {number}: " + "the miller grinds " * number) for number in (1, 2, 3)]


@pytest.fixture
def published(prose: Pipeline, make_language_model: Callable[..., LanguageModel], tmp_path: Path) -> Artifact:
    return publish_text_package(
        ObjectStore(str(tmp_path / "objects")),
        "packages/prose/1",
        model=make_language_model(prose, seed=3),
        examples=EXAMPLES,
        card="# prose",
        lineage={"data": "digest"},
        metrics={"validation_loss": 2.5, "unknown": float("nan")},
    )


def changed(package: Artifact, name: str, content: bytes | None) -> Artifact:
    """A package of its own that differs in one file, or lacks it."""
    files = {each: package.read(each) for each in package.entries if each != name}
    return package.store.publish("packages/prose/2", files | ({} if content is None else {name: content}))


def test_it_comes_back_as_it_was(
    published: Artifact, prose: Pipeline, make_language_model: Callable[..., LanguageModel]
) -> None:
    loaded = load_language_model(published, prose)
    assert loaded.spec == prose.spec == package_spec(published)
    assert np.array_equal(loaded.bits(EXAMPLES), make_language_model(prose, seed=3).bits(EXAMPLES))
    assert not loaded.module.training
    assert set(published.entries) == {WEIGHTS, SPEC, PROBE, CARD}
    assert published.summary == {"pipeline": "prose", "metrics": {"validation_loss": 2.5}}
    assert card_text(published) == "# prose"


def test_a_long_example_is_ended_early(
    prose: Pipeline, make_language_model: Callable[..., LanguageModel], tmp_path: Path
) -> None:
    package = publish_text_package(
        ObjectStore(str(tmp_path / "objects")),
        "packages/prose/long",
        model=make_language_model(prose),
        examples=[encode("x" * 10_000)] * 20,
        card="",
        lineage={},
        metrics={},
    )
    told = json.loads(package.read(PROBE))
    assert [len(document) for document in told["documents"]] == [4097] * 8
    assert told["documents"][0][-1] == END
    load_language_model(package, prose)


def test_another_answer_than_the_trainers_is_refused(published: Artifact, prose: Pipeline) -> None:
    tensors = safetensors.torch.load(published.read(WEIGHTS))
    tensors["lm_head.weight"][ord("e")] += 0.1
    with pytest.raises(PackageError, match="bits a token"):
        load_language_model(changed(published, WEIGHTS, safetensors.torch.save(tensors)), prose)


@pytest.mark.parametrize(
    "probe",
    [
        {"documents": [], "bits": []},
        {"documents": [[1, 256]], "bits": [1.0]},
        {"documents": [[]], "bits": [1.0]},
        {"documents": [[1, 255]], "bits": [1.0, 2.0]},
        {"documents": [[1] * 5000], "bits": [1.0]},
        {"documents": [[1, 255]], "bits": ["much"]},
        {"documents": [[1, 255]]},
    ],
)
def test_a_probe_that_is_none_is_refused(published: Artifact, prose: Pipeline, probe: dict[str, Any]) -> None:
    with pytest.raises(PackageError, match="packages/prose/2"):
        load_language_model(changed(published, PROBE, json.dumps(probe).encode()), prose)


def test_other_weights_than_the_modules_are_refused(published: Artifact, prose: Pipeline) -> None:
    tensors = safetensors.torch.load(published.read(WEIGHTS))
    del tensors["lm_head.weight"]
    with pytest.raises(PackageError, match="do not fit the module"):
        load_language_model(changed(published, WEIGHTS, safetensors.torch.save(tensors)), prose)


def test_a_package_has_its_files_and_no_other(published: Artifact, prose: Pipeline) -> None:
    with pytest.raises(PackageError, match="other files"):
        load_language_model(changed(published, CARD, None), prose)


def test_packages_of_tables_and_texts_are_told_apart(published: Artifact, prose: Pipeline, tiny: Pipeline) -> None:
    for pipeline in (prose, tiny):
        with pytest.raises(MillraceError, match="packages/prose/1"):
            load_predictor(published, pipeline)
    with pytest.raises(PackageError, match="another pipeline's"):
        load_language_model(published, tiny)
    with pytest.raises(ConfigError, match="learns from texts"):
        _ = package_spec(published).table
