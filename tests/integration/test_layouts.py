"""Layouts over real processes train what one process trains, and take over each other's state."""

from __future__ import annotations

from pathlib import Path

from benchmarks.training.layouts import compare
from ray_jobs.train.layout.mesh import Layout

LAYOUTS = (
    Layout(replicate=2),
    Layout(tensor=2, sequence=True),
    Layout(stages=2, schedule="Interleaved1F1B", stages_per_worker=2, microbatches=4),
    Layout(shard=2, tensor=2, sequence=True),
    Layout(replicate=2, shard=2),
    Layout(shard=2, stages=2, schedule="1F1B", microbatches=4),
)
STEPS = 6


def test_every_layout_trains_the_same_model_and_takes_the_others_state(tmp_path: Path) -> None:
    found = compare(LAYOUTS, STEPS, tmp_path, lambda _: None)
    assert [each["name"] for each in found] == [layout.name for layout in LAYOUTS]
    for each in found:
        assert each["max_relative_difference"] <= 1e-5, each
        assert len(set(each["resharded_to"]) - {each["name"]}) == 3, each
        assert each["resharded_wrong"] == 0, each
