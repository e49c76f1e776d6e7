"""Weights are safetensors as our writers make them."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import weights
from millrace.errors import ArtifactError

_WHOLE = safetensors.torch.save({"a": torch.ones(3, 2), "b": torch.arange(4)})


def test_what_was_saved_is_loaded() -> None:
    found = weights.load(_WHOLE, "w")
    assert set(found) == {"a", "b"}
    assert torch.equal(found["a"], torch.ones(3, 2))
    assert torch.equal(found["b"], torch.arange(4))


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.float64])
def test_every_type_of_a_parameter_is_known(kind: torch.dtype) -> None:
    assert weights.load(safetensors.torch.save({"a": torch.ones(2).to(kind)}), "w")["a"].dtype == kind


@given(position=st.integers(0, 10**6), flip=st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_a_damaged_file_is_loaded_or_refused(position: int, flip: int) -> None:
    content = bytearray(_WHOLE)
    content[position % len(content)] ^= flip
    try:
        weights.load(bytes(content), "w")
    except ArtifactError as error:
        assert error.what.startswith("w")


def test_infinity_may_stand_in_a_mask_and_nan_nowhere() -> None:
    assert weights.load(safetensors.torch.save({"a": torch.tensor([-float("inf")])}), "w")
    with pytest.raises(ArtifactError, match="tensor 'a' holds NaN"):
        weights.load(safetensors.torch.save({"a": torch.tensor([float("nan")])}), "w")
