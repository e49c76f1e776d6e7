"""Which layouts cannot work, and what the refusal says."""

from __future__ import annotations

import re
from typing import Any

import pytest

from millrace.errors import ConfigError
from millrace.parallel import ParallelPlan
from ray_jobs.train.layout.checks import check
from ray_jobs.train.layout.mesh import Layout

PLAN = ParallelPlan(blocks="layers", tensor=lambda _: {}, divisible={"heads": 6, "kv_heads": 2}, tokens_per_row=64)
ODD = ParallelPlan(blocks="layers", tensor=lambda _: {}, tokens_per_row=63)


@pytest.mark.parametrize(
    ("layout", "options", "told"),
    [
        (Layout(tensor=4), {}, r"tensor_parallel 4 does not divide heads 6 \(it may be 1, 2, 3, 6\)"),
        (Layout(tensor=3), {}, r"does not divide kv_heads 2 \(it may be 1, 2\)"),
        (Layout(tensor=2), {"plan": ParallelPlan()}, r"no plan of its blocks: set model\.plan"),
        (Layout(tensor=2), {"plan": ParallelPlan(blocks="layers")}, "no tensor parallel styles"),
        (Layout(stages=4, microbatches=4), {"num_blocks": 3}, "4 stages for 3 blocks: there may be 3"),
        (Layout(stages=4, microbatches=2), {}, "microbatches is at least 4"),
        (
            Layout(stages=2, schedule="Interleaved1F1B", stages_per_worker=2, microbatches=3),
            {"batch_size": 12},
            "in rounds of 2, got 3",
        ),
        (Layout(stages=2, replicate=2, microbatches=4), {"batch_size": 12}, "12 is no multiple of 2 x 4 microbatches"),
        (Layout(stages=2, microbatches=4), {"accumulation": 2}, "set gradient_accumulation to 1"),
        (Layout(replicate=8), {"batch_size": 8, "accumulation": 2}, "8 is below 8 workers x 2"),
        (Layout(tensor=2, sequence=True), {"plan": ODD}, "do not share 63 tokens evenly"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(layout: Layout, options: dict[str, Any], told: str) -> None:
    given = {"plan": PLAN, "num_blocks": 8, "batch_size": 16, **options}
    with pytest.raises(ConfigError) as refused:
        check(layout, **given)
    assert re.search(told, str(refused.value)), refused.value
    assert layout.name in str(refused.value)


def test_all_reasons_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"heads 6.*kv_heads 2.*microbatches is at least 2"):
        check(Layout(tensor=4, stages=2, microbatches=1), PLAN, 8, 16)


def test_what_can_work_passes() -> None:
    check(Layout(replicate=2, shard=2, tensor=2, sequence=True, stages=2, microbatches=4), PLAN, 8, 16)
    check(Layout(replicate=4), ParallelPlan(), 0, 16, accumulation=4)
