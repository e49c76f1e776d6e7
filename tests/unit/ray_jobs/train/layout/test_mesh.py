"""Which layout a spec means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import ConfigError
from millrace.spec.layout import LayoutSpec
from ray_jobs.train.layout.mesh import Layout, resolve

DEGREES = st.integers(1, 4)


@given(replicate=DEGREES, shard=DEGREES, tensor=DEGREES, stages=DEGREES)
def test_what_is_left_is_sharded(replicate: int, shard: int, tensor: int, stages: int) -> None:
    world = replicate * shard * tensor * stages
    degrees = {"data_parallel_replicate": replicate, "tensor_parallel": tensor, "pipeline_parallel": stages}
    open_end = resolve(LayoutSpec(**degrees, data_parallel_shard=-1), world)
    assert open_end == resolve(LayoutSpec(**degrees, data_parallel_shard=shard), world)
    assert (open_end.world_size, open_end.data_world) == (world, replicate * shard)
    with pytest.raises(ConfigError, match=rf"for {world + 1} workers"):
        resolve(LayoutSpec(**degrees, data_parallel_shard=shard), world + 1)


def test_auto_copies_the_model_while_there_is_room_for_its_state_twice() -> None:
    assert resolve("auto", 1) == Layout()
    assert resolve("auto", 4) == Layout(replicate=4)
    assert resolve("auto", 4, num_parameters=10**9, memory_bytes=80 * 2**30) == Layout(replicate=4)
    assert resolve("auto", 4, num_parameters=8 * 10**9, memory_bytes=80 * 2**30) == Layout(shard=4)


def test_a_pipeline_has_twice_as_many_microbatches_as_stages_unless_told() -> None:
    assert resolve(LayoutSpec(pipeline_parallel=2), 2).microbatches == 4
    spec = LayoutSpec(pipeline_parallel=2, pipeline_schedule="Interleaved1F1B", stages_per_worker=3)
    assert (resolve(spec, 2).num_stages, resolve(spec, 2).microbatches) == (6, 12)
    assert resolve(LayoutSpec(pipeline_parallel=2, microbatches=8), 2).microbatches == 8
    assert resolve(LayoutSpec(microbatches=8), 1).microbatches == 1


def test_names_are_short_and_tell_layouts_apart() -> None:
    assert Layout().name == "single"
    assert Layout(replicate=2, shard=4, tensor=2, sequence=True).name == "dp2+fsdp4+tp2sp"
    assert Layout(stages=2, microbatches=4).name == "pp2-1F1B-4"
