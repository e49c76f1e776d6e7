"""Saves from a GPU: training waits for the copy into host memory and no longer, and what comes back is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from millrace.storage import ObjectStore
from ray_jobs.train.checkpoints.checkpoints import Checkpoints

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_an_asynchronous_save_from_the_gpu(tmp_path: Path) -> None:
    state = {f"t{index}": torch.randn(4096, 4096, device="cuda") for index in range(8)}
    wanted = {name: tensor.clone() for name, tensor in state.items()}
    checkpoints = Checkpoints(ObjectStore(str(tmp_path)), "run/checkpoints")
    checkpoints.save_async(1, state, {})
    checkpoints.wait()
    checkpoints.save_async(2, state, {})
    was_saving = checkpoints.is_saving
    for tensor in state.values():
        tensor.zero_()
    assert was_saving, "the save was over before save_async returned"
    checkpoints.wait()
    found = checkpoints.load_into(state)
    assert found is not None
    assert found.step == 2
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    checkpoints.close()
