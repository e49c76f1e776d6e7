"""Language models are judged on documents that none of them has seen, in bits per byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import torch

from millrace.dataset import StagedSet
from millrace.errors import DataError
from millrace.gate import Evaluation
from millrace.language_model import LanguageModel
from millrace.ngram import ByteNgram
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.storage import ObjectStore
from millrace.text_package import publish_text_package
from millrace.texts import encode
from millrace.window import Window
from ray_jobs.evaluate import texts
from ray_jobs.evaluate.judge import judge
from ray_jobs.train.request import Split

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.fixture
def publish(prose: Pipeline, local_settings: Settings, make_language_model: Callable[..., LanguageModel]) -> Any:
    """Publish a model under a key; `space`: how much likelier it holds a space than any other byte."""

    def make(key: str, *, space: float) -> None:
        model = make_language_model(prose)
        with torch.no_grad():
            model.module.lm_head.weight.zero_()
            model.module.norm.weight.fill_(1.0)
            model.module.embed_tokens.weight.fill_(1.0)
            model.module.lm_head.weight[ord(" ")] = space / 32
        for block in model.module.layers.values():
            for name in ("self_attn.o_proj", "mlp.down_proj"):
                torch.nn.init.zeros_(block.get_submodule(name).weight)
        store = ObjectStore.of(local_settings)
        examples = [encode("a fox")]
        publish_text_package(store, key, model=model, examples=examples, card="", lineage={}, metrics={})

    return make


def judged(
    settings: Settings, pipeline: Pipeline, staged: StagedSet, champion: tuple[str, str] | None = None
) -> Evaluation:
    split = Split.of(pipeline, staged.window, AS_OF)
    return judge(settings, pipeline.spec, staged, split, "packages/new", champion)


def test_each_is_measured_in_bits_per_byte(
    prose: Pipeline, local_settings: Settings, staged_prose: StagedSet, publish: Any
) -> None:
    publish("packages/new", space=0.0)
    found = judged(local_settings, prose, staged_prose)
    assert list(found.metrics) == ["challenger", "baseline", "ngram"]
    assert found.window == Window(datetime(2024, 2, 20), AS_OF)
    rows = staged_prose.read(ObjectStore.of(local_settings), prose.spec.data, found.window)
    assert found.num_rows == len(rows)
    num_bytes = sum(len(text.encode()) for text in rows["text"])
    # All 256 tokens alike: eight bits for each byte and for the end.
    assert found.metrics["challenger"]["bits_per_byte"] == pytest.approx(8 * (1 + len(rows) / num_bytes))
    assert found.metrics["ngram"]["bits_per_byte"] < 1 < found.metrics["baseline"]["bits_per_byte"] < 5
    assert not found.verdict.passed
    assert "not better than the trivial baseline: bits_per_byte" in found.verdict.reasons[0]


def test_the_baselines_are_fitted_on_the_training_window(
    prose: Pipeline, local_settings: Settings, staged_prose: StagedSet, publish: Any
) -> None:
    publish("packages/new", space=0.0)
    found = judged(local_settings, prose, staged_prose)
    store, split = ObjectStore.of(local_settings), Split.of(prose, staged_prose.window, AS_OF)
    counted = ByteNgram(1)
    counted.add([encode(text) for text in staged_prose.read(store, prose.spec.data, split.training)["text"]])
    unseen = [encode(text) for text in staged_prose.read(store, prose.spec.data, split.evaluation)["text"]]
    expected = counted.bits(unseen).sum() / sum(len(tokens) - 1 for tokens in unseen)
    assert found.metrics["baseline"]["bits_per_byte"] == pytest.approx(expected)


def test_no_more_is_counted_than_memory_is_meant_for(
    prose: Pipeline, local_settings: Settings, staged_prose: StagedSet, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("packages/new", space=0.0)
    monkeypatch.setattr(texts, "COUNTED_TOKENS", 0)
    found = judged(local_settings, prose, staged_prose)
    assert found.metrics["ngram"] == found.metrics["baseline"] == pytest.approx(found.metrics["challenger"])


def test_a_better_model_wins_by_the_rule_of_the_spec(
    prose: Pipeline, local_settings: Settings, staged_prose: StagedSet, publish: Any
) -> None:
    publish("packages/new", space=3.0)
    publish("packages/old", space=0.0)
    found = judged(local_settings, prose, staged_prose, ("4", "packages/old"))
    assert found.champion_version == "4"
    assert found.improvement is not None
    gain = found.metrics["champion"]["bits_per_byte"] - found.metrics["challenger"]["bits_per_byte"]
    assert found.improvement.difference == pytest.approx(gain)
    assert 0 < found.improvement.lower < found.improvement.difference < found.improvement.upper
    assert not found.verdict.passed, "it is far from the frequencies of bytes"


def test_few_documents_judge_nothing(
    prose: Pipeline, local_settings: Settings, staged_prose: StagedSet, publish: Any
) -> None:
    publish("packages/new", space=0.0)
    rule = prose.spec.evaluation.model_copy(update={"min_rows": 1000})
    strict = replace(prose, spec=prose.spec.model_copy(update={"evaluation": rule}))
    assert "documents, 1,000 needed to judge" in judged(local_settings, strict, staged_prose).verdict.reasons[0]


def test_a_window_without_documents_is_refused(
    prose: Pipeline, local_settings: Settings, staged_prose: StagedSet, publish: Any
) -> None:
    publish("packages/new", space=0.0)
    split = Split.of(prose, staged_prose.window, AS_OF)
    later = Split(split.training, split.validation, Window(datetime(2025, 1, 1), datetime(2025, 2, 1)))
    with pytest.raises(DataError, match=r"no documents in \[2025-01-01, 2025-02-01\)"):
        judge(local_settings, prose.spec, staged_prose, later, "packages/new", None)


def test_an_evaluation_of_texts_is_kept_as_any_other(
    prose: Pipeline, local_settings: Settings, staged_prose: StagedSet, publish: Any
) -> None:
    publish("packages/new", space=0.0)
    found = judged(local_settings, prose, staged_prose)
    assert Evaluation.from_dict(found.as_dict()) == found
    assert np.isfinite([value for metrics in found.metrics.values() for value in metrics.values()]).all()
