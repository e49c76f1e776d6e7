"""The scale that keeps FP16 from underflow, and the norm of one worker's gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.train.layout.gradients import LossScale, scale_all, squared_norm


def test_only_fp16_is_scaled() -> None:
    assert LossScale.of("fp16").scale == 65536
    for precision in ("fp32", "bf16"):
        scale = LossScale.of(precision)
        scale.update(finite=False)
        assert scale == LossScale(1.0, False, 0)


def test_a_gradient_that_is_not_finite_halves_the_scale_and_many_good_ones_double_it() -> None:
    scale = LossScale(8.0, True)
    scale.update(finite=False)
    assert (scale.scale, scale.good_steps) == (4.0, 0)
    for _ in range(1999):
        scale.update(finite=True)
    assert scale.scale == 4.0
    scale.update(finite=True)
    assert (scale.scale, scale.good_steps) == (8.0, 0)


@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=5), min_size=1, max_size=4))
def test_the_norm_is_that_of_all_gradients_as_one_vector(values: list[list[float]]) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(len(each))) for each in values]
    for parameter, each in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(each)
    expected = sum(value**2 for each in values for value in each)
    assert float(squared_norm(parameters, stages=1)) == pytest.approx(expected, rel=1e-5, abs=1e-12)
    scale_all(parameters, 0.5)
    assert float(squared_norm(parameters, stages=1)) == pytest.approx(expected / 4, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_one_bad_element_is_seen(bad: float) -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([1.0, bad, 2.0])
    assert not math.isfinite(squared_norm([parameter, torch.nn.Parameter(torch.zeros(2))], stages=1))


def test_without_gradients_the_norm_is_zero() -> None:
    assert squared_norm([torch.nn.Parameter(torch.zeros(3))], stages=1) == 0
