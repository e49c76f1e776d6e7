"""A checkpoint gives back what was saved, and refuses what is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from millrace.errors import ArtifactError, DigestError
from millrace.storage import ObjectStore
from ray_jobs.train.checkpoint import Position, load_newest, save

STATE = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3), "layers.0.bias": torch.zeros(3, dtype=torch.float16)},
    "optimizer": {"state.weight.exp_avg": torch.ones(2, 3), "state.weight.step": torch.tensor(3.0)},
}


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path))


def test_without_a_checkpoint_a_run_is_fresh(store: ObjectStore) -> None:
    assert load_newest(store, "p", 5) is None


def test_what_was_saved_is_what_is_loaded(store: ObjectStore) -> None:
    position = Position(2, 30, 0.5, 1, [{"epoch": 1.0}, {"epoch": 2.0}])
    best, scale = {"weight": torch.full((2, 3), 7.0)}, {"scale": 1024.0, "is_dynamic": True, "good_steps": 4}
    save(store, "p", position, STATE, best, scale)
    found = load_newest(store, "p", 5)
    assert found is not None
    assert (found.position, found.scale) == (position, scale)
    for part, values in STATE.items():
        assert found.state[part].keys() == values.keys()
        for name, tensor in values.items():
            assert torch.equal(found.state[part][name], tensor), name
            assert found.state[part][name].dtype == tensor.dtype
    assert torch.equal(found.best["weight"], best["weight"])


def test_the_newest_is_taken(store: ObjectStore) -> None:
    for epoch in (1, 2, 4):
        save(store, "p", Position(epoch=epoch), STATE, {})
    save(store, "other", Position(epoch=5), STATE, {})
    assert [found.position.epoch for most in (9, 3) if (found := load_newest(store, "p", most))] == [4, 2]


def test_the_first_position_survives_json(store: ObjectStore) -> None:
    save(store, "p", Position(epoch=1), STATE, {})
    found = load_newest(store, "p", 1)
    assert found is not None
    assert found.position.best_loss == float("inf")


@pytest.mark.parametrize("summary", [{}, {"scale": 3}, {"scale": {}, "epoch": 1}, {"epoch": -1}, {"epoch": 2}])
def test_what_is_no_checkpoint_is_refused(summary: dict[str, object], store: ObjectStore) -> None:
    known = Position(epoch=1).as_dict()
    del known["history"]
    whole = known | {"scale": {}} | summary if len(summary) == 1 else summary
    save(store, "p", Position(epoch=1), STATE, {})
    tensors = store.get("p/epoch-00001").read("state.safetensors")
    store.publish("q/epoch-00001", {"state.safetensors": tensors}, summary=whole)
    with pytest.raises(ArtifactError) as caught:
        load_newest(store, "q", 1)
    assert caught.value.what == "checkpoint q/epoch-00001 does not fit the model"
    assert caught.value.next == "delete the prefix q"


def test_a_changed_checkpoint_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    save(store, "p", Position(epoch=1), STATE, {})
    (path,) = (tmp_path / "p").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(DigestError, match=r"state\.safetensors"):
        load_newest(store, "p", 1)


def test_stale_epochs_are_counted_from_the_best() -> None:
    assert Position(epoch=7, best_epoch=4).stale_epochs == 3
