"""Judge a language model: in how many bits it writes down documents that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from millrace.dataset import StagedSet
from millrace.errors import DataError
from millrace.gate import Evaluation, compare_texts
from millrace.language_model import LanguageModel
from millrace.ngram import ByteNgram
from millrace.pipeline import Pipeline
from millrace.storage import ObjectStore
from millrace.text_package import load_language_model
from millrace.texts import Tokens
from ray_jobs.stage.tokens import documents
from ray_jobs.train.request import Split

#: What a model must beat to be of use, and what it should: a byte's frequency, and that after the five before it.
_BASELINES = {"baseline": 1, "ngram": 6}

#: Counts grow with what was seen; of more text than this they would hardly change the verdict, and fill the memory.
COUNTED_TOKENS = 1 << 25

Score = Callable[[Sequence[Tokens]], NDArray[np.float64]]


def judge_texts(
    store: ObjectStore,
    pipeline: Pipeline,
    staged: StagedSet,
    split: Split,
    challenger_key: str,
    champion: tuple[str, str] | None,
) -> Evaluation:
    """Challenger, champion and frequencies of runs of bytes on the documents of the evaluation window.

    A staged shard is in memory at a time, and of each document two numbers a model.

    Raises:
        DataError: there are no documents in the window.
        PackageError: a package cannot be loaded.
    """
    data = pipeline.spec.texts
    scores: dict[str, Score] = {"challenger": _on_device(load_language_model(store.get(challenger_key), pipeline)).bits}
    if champion is not None:
        scores["champion"] = _on_device(load_language_model(store.get(champion[1]), pipeline)).bits
    baselines = {name: ByteNgram(order) for name, order in _BASELINES.items()}
    for part in documents(store, staged, data, split.training):
        for counted in baselines.values():
            if counted.num_tokens < COUNTED_TOKENS:
                counted.add(part)
    scores |= {name: counted.bits for name, counted in baselines.items()}
    lengths: list[NDArray[np.float64]] = []
    bits: dict[str, list[NDArray[np.float64]]] = {name: [] for name in scores}
    for part in documents(store, staged, data, split.evaluation):
        # The END is written down too, but it is none of the document's bytes.
        lengths.append(np.array([len(tokens) - 1 for tokens in part], np.float64))
        for name, score in scores.items():
            bits[name].append(score(part))
    num_bytes = np.concatenate([np.zeros(0), *lengths])
    if not len(num_bytes):
        raise DataError(
            f"no documents in {split.evaluation}",
            allowed="at least one",
            next="give a later as_of, or lengthen evaluation.window_days",
        )
    version = None if champion is None else champion[0]
    found = {name: np.concatenate(each) for name, each in bits.items()}
    return compare_texts(pipeline.spec, split.evaluation, num_bytes, found, version)


def _on_device(model: LanguageModel) -> LanguageModel:
    """The model on the GPU that this task was given, where it was given one."""
    if torch.cuda.is_available():
        model.module.cuda()
    return model
