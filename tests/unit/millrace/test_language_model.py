"""The bits of a document are those of its tokens, however documents are cut and put together."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from millrace import language_model
from millrace.language_model import LanguageModel
from millrace.pipeline import Pipeline
from millrace.texts import END, encode
from tests.prose import write_prose

Make = Callable[..., LanguageModel]
DOCUMENTS = [encode(text) for text in ("", "a", "the miller sees a fox", "ä" * 40, "no one eats the grain. " * 9)]


def by_hand(model: LanguageModel, tokens: list[int], length: int) -> float:
    """One token at a time, each from those before it in its sequence."""
    bits, stream = 0.0, [END, *tokens]
    for place in range(len(tokens)):
        start = place // length * length
        with torch.inference_mode():
            logits = model.module(torch.tensor([stream[start : place + 1]]))[0, -1].double()
        bits -= float(torch.log_softmax(logits, 0)[stream[place + 1]]) / math.log(2)
    return bits


def test_bits_are_those_of_each_token_after_those_before(prose: Pipeline, make_language_model: Make) -> None:
    model = make_language_model(prose)
    found = model.bits(DOCUMENTS)
    for document, bits in zip(DOCUMENTS, found, strict=True):
        assert bits == pytest.approx(by_hand(model, document.tolist(), 64), rel=1e-4)


def test_documents_do_not_change_each_other(
    prose: Pipeline, make_language_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_language_model(prose)
    together = model.bits(DOCUMENTS)
    monkeypatch.setattr(language_model, "_TOKENS_AT_ONCE", 1)
    assert together == pytest.approx(np.concatenate([model.bits([document]) for document in DOCUMENTS]), rel=1e-5)
    assert model.bits([]).shape == (0,)


def test_a_model_that_knows_nothing_needs_eight_bits_a_byte(tmp_path: Path, make_language_model: Make) -> None:
    model = make_language_model(write_prose(tmp_path))
    torch.nn.init.zeros_(model.module.lm_head.weight)
    assert model.bits(DOCUMENTS) == pytest.approx([8 * len(document) for document in DOCUMENTS])
