"""A checkpoint restores module, optimizer and position exactly, and refuses what is not its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from millrace.errors import ArtifactError, DigestError
from millrace.storage import ObjectStore
from ray_jobs.train.checkpoint import Position, load_newest, save


def make(width: int = 4) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(width)
    module = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 1))
    return module, torch.optim.AdamW(module.parameters(), lr=0.01)


def steps(module: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        module(torch.randn(8, 3, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path))


def test_without_a_checkpoint_a_run_is_fresh(store: ObjectStore) -> None:
    module, optimizer = make()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    position, best = load_newest(store, "p", 5, module, optimizer)
    assert (position, best) == (Position(), {})
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_what_was_saved_goes_on_as_if_nothing_had_been(store: ObjectStore) -> None:
    module, optimizer = make()
    steps(module, optimizer, 3)
    best = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    position = Position(2, 30, 0.5, 1, [{"epoch": 1.0}, {"epoch": 2.0}])
    save(store, "p", position, module, optimizer, best)
    other, other_optimizer = make(width=4)
    found, found_best = load_newest(store, "p", 5, other, other_optimizer)
    assert found == position
    assert all(torch.equal(found_best[name], tensor) for name, tensor in best.items())
    for one, its_optimizer in ((module, optimizer), (other, other_optimizer)):
        steps(one, its_optimizer, 2, seed=7)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_the_newest_is_taken(store: ObjectStore) -> None:
    module, optimizer = make()
    for epoch in (1, 2, 4):
        save(store, "p", Position(epoch=epoch), module, optimizer, {})
    save(store, "other", Position(epoch=5), module, optimizer, {})
    assert load_newest(store, "p", 9, module, optimizer)[0].epoch == 4
    assert load_newest(store, "p", 3, module, optimizer)[0].epoch == 2


def test_the_first_position_survives_json(store: ObjectStore) -> None:
    module, optimizer = make()
    save(store, "p", Position(epoch=1), module, optimizer, {})
    assert load_newest(store, "p", 1, module, optimizer)[0].best_loss == float("inf")


def test_another_models_checkpoint_is_refused(store: ObjectStore) -> None:
    module, optimizer = make()
    steps(module, optimizer, 1)
    save(store, "p", Position(epoch=1), module, optimizer, {})
    with pytest.raises(ArtifactError) as caught:
        load_newest(store, "p", 1, *make(width=5))
    assert caught.value.what == "checkpoint p/epoch-00001 does not fit the model"
    assert "size mismatch" in (caught.value.got or "")
    assert caught.value.next == "delete the prefix p"


def test_a_changed_checkpoint_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    module, optimizer = make()
    save(store, "p", Position(epoch=1), module, optimizer, {})
    (path,) = (tmp_path / "p").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(DigestError, match=r"state\.safetensors"):
        load_newest(store, "p", 1, module, optimizer)


def test_stale_epochs_are_counted_from_the_best() -> None:
    assert Position(epoch=7, best_epoch=4).stale_epochs == 3
