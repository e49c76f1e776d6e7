"""How fast a training goes, in rows, tokens and shares of a peak."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from millrace.parallel import ParallelPlan
from ray_jobs.train.speed import Speed, flops_of, peak_flops

CPU = torch.device("cpu")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.names = nn.Embedding(1000, 8)
        self.layer = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.out = nn.Linear(16, 2)


def test_a_weight_that_multiplies_counts_six_times_and_a_looked_up_one_not() -> None:
    assert flops_of(Model()) == 6 * (8 * 16 + 16 * 2)


def test_the_plan_knows_better() -> None:
    assert Speed.of(Model(), ParallelPlan(flops_per_row=7.0), 1, CPU, "fp32").flops_per_row == 7.0


def test_utilisation_is_of_one_worker() -> None:
    speed = Speed(flops_per_row=50.0, tokens_per_row=256, world_size=4, device=CPU, peak_flops=1000.0)
    metrics = speed.metrics(40.0)
    assert metrics["mfu"] == pytest.approx(40 * 50 / 4 / 1000)
    assert metrics["tokens_per_second"] == 40 * 256
    assert metrics["rows_per_second"] == 40
    assert metrics["peak_memory_bytes"] > 2**20


def test_rows_of_a_table_are_no_tokens() -> None:
    assert "tokens_per_second" not in Speed(1.0, 1, 1, CPU, 1.0).metrics(1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_draws_nothing_from_the_global_generator(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert peak_flops(CPU, dtype) > 1e6
    assert torch.equal(torch.get_rng_state(), before)
