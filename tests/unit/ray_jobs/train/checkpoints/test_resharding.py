"""What four ranks saved, two ranks and one process load, and the other way round: the same tensors."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from millrace.errors import ArtifactError
from millrace.storage import ObjectStore
from ray_jobs.train.checkpoints.checkpoints import Checkpoints
from ray_jobs.train.checkpoints.state import Tensors, capture, restore

_RANKS = 4


def _made(seed: int, ranks: list[int] | None) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model whose sizes four does not divide, sharded over `ranks`, after one step that all of them make alike."""
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
    if ranks is not None:
        mesh = DeviceMesh("cpu", ranks)
        for layer in module:
            fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(2, 5)).square().sum().backward()
    optimizer.step()
    return module, optimizer


def _whole(tensors: Tensors) -> Tensors:
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()
        for name, tensor in tensors.items()
    }


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=_RANKS)
    store = ObjectStore(f"{folder}/objects")
    everyone, pair = dist.new_group(list(range(_RANKS))), dist.new_group([0, 1])

    four = Checkpoints(store, "four/checkpoints", group=everyone)
    state = capture(*_made(0, list(range(_RANKS))))
    four.save_async(1, state, {"ranks": _RANKS})
    wanted = _whole(state)
    four.close()

    if rank < 2:
        module, optimizer = _made(1, [0, 1])
        state = capture(module, optimizer)
        two = Checkpoints(store, "four/checkpoints", group=pair)
        assert two.load_into(state) is not None
        restore(module, optimizer, state)
        _require_same(_whole(capture(module, optimizer)), wanted)
        Checkpoints(store, "two/checkpoints", group=pair).save(2, state, {})
    dist.barrier()

    state = capture(*_made(2, list(range(_RANKS))))
    assert Checkpoints(store, "two/checkpoints", group=everyone).load_into(state) is not None
    _require_same(_whole(state), wanted)

    # An error of one rank is every rank's.
    other = {"another": torch.zeros(3)}
    try:
        Checkpoints(store, "two/checkpoints", group=everyone).load_into(other)
    except ArtifactError as error:
        assert "another model" in error.message
    else:
        raise AssertionError("another model was taken")
    if rank == 0:
        torch.save(wanted, f"{folder}/wanted.pt")
    dist.destroy_process_group()


def _require_same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_any_layout_loads_what_any_other_saved(tmp_path: Path) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=_RANKS)
    wanted = torch.load(tmp_path / "wanted.pt", weights_only=True)
    module, optimizer = _made(3, None)
    for prefix in ("four/checkpoints", "two/checkpoints"):
        state = capture(module, optimizer)
        assert Checkpoints(ObjectStore(str(tmp_path / "objects")), prefix).load_into(state) is not None
        restore(module, optimizer, state)
        _require_same(capture(module, optimizer), wanted)
