"""Checkpoints are whole or absent, of the run that holds the token, and load into any layout."""

from __future__ import annotations

import errno
import itertools
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.training.checkpoints import hostile
from benchmarks.training.hostile_store import FAULTS, HostileStore, Killed
from millrace.errors import ArtifactError, DigestError, FencedError, MillraceError, ServiceError
from millrace.retries import Retries
from millrace.storage import ObjectStore
from ray_jobs.train.checkpoints.checkpoints import Checkpoints
from ray_jobs.train.checkpoints.state import Tensors, capture, restore

PREFIX = "run/checkpoints"
QUICK = Retries(first_seconds=0.0)


def state_of(number: float) -> Tensors:
    value = float(number)
    return {
        "model/a": torch.full((3, 5), value),
        "model/b": torch.full((7,), value, dtype=torch.bfloat16),
        "optimizer/step": torch.tensor(value),
        "model/none": torch.zeros(0, 4),
    }


def on(url: str | Path, **options: Any) -> Checkpoints:
    return Checkpoints(ObjectStore(str(url)), PREFIX, retries=QUICK, **options)


def loaded(url: str | Path, at: int | None = None) -> tuple[int, Tensors]:
    state = state_of(-1.0)
    found = on(url).load_into(state, at)
    assert found is not None
    return found.step, state


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_nothing_is_there_at_first(tmp_path: Path) -> None:
    assert on(tmp_path).newest() is None
    assert on(tmp_path).load_into(state_of(0.0)) is None


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    checkpoints = on(tmp_path)
    checkpoints.save(4, state_of(4.0), {"rows": 17})
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.extra == {"rows": 17}
    step, state = loaded(tmp_path)
    assert step == 4
    assert same(state, state_of(4.0))


def test_a_model_and_its_optimizer_go_on_as_they_were(tmp_path: Path) -> None:
    def made(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        module = torch.nn.Linear(4, 2)
        return module, torch.optim.AdamW(module.parameters(), lr=0.1)

    def step(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        module(torch.arange(8.0).reshape(2, 4)).square().sum().backward()
        optimizer.step()

    one, other = made(0), made(1)
    step(*one)
    on(tmp_path).save(1, capture(*one), {})
    tensors = capture(*other)
    on(tmp_path).load_into(tensors)
    restore(*other, tensors)
    step(*one)
    step(*other)
    assert same(capture(*one), capture(*other))


def test_an_asynchronous_save_keeps_what_was_there_when_it_was_asked(tmp_path: Path) -> None:
    checkpoints, state = on(tmp_path), state_of(1.0)
    for step in range(3):
        for tensor in state.values():
            tensor.fill_(step)
        checkpoints.save_async(step, state, {})
        state["model/a"].fill_(99.0)
    checkpoints.close()
    assert same(loaded(tmp_path)[1], state_of(2.0))


def test_what_an_asynchronous_save_raised_comes_with_the_next_call(tmp_path: Path) -> None:
    allowed = [True]

    def prove() -> None:
        if not allowed[0]:
            raise FencedError("another run holds the token")

    checkpoints = on(tmp_path, prove=prove)
    checkpoints.save(1, state_of(1.0), {})
    allowed[0] = False
    checkpoints.save_async(2, state_of(2.0), {})
    with pytest.raises(FencedError):
        checkpoints.wait()
    checkpoints.close()
    assert loaded(tmp_path)[0] == 1


def test_the_newest_and_one_that_is_named_stay(tmp_path: Path) -> None:
    checkpoints = on(tmp_path, keep=2)
    for step in range(5):
        checkpoints.save(step, state_of(step), {}, also=min(step, 1))
    assert [found.step for found in checkpoints.committed()] == [4, 3, 1]
    assert loaded(tmp_path, at=1)[0] == 1


def test_what_was_loaded_stays(tmp_path: Path) -> None:
    on(tmp_path).save(1, state_of(1.0), {})
    checkpoints = on(tmp_path, keep=1)
    checkpoints.load_into(state_of(0.0))
    for step in (2, 3, 4):
        checkpoints.save(step, state_of(step), {})
    assert [found.step for found in checkpoints.committed()] == [4, 1]


def test_going_back_makes_what_follows_the_newest(tmp_path: Path) -> None:
    checkpoints = on(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, state_of(step), {})
    checkpoints.load_into(state_of(0.0), at=2)
    checkpoints.save(3, state_of(33.0), {})
    assert same(loaded(tmp_path)[1], state_of(33.0))


def test_a_writer_that_was_replaced_stays_out_of_sight(tmp_path: Path) -> None:
    old, new = on(tmp_path), on(tmp_path)
    old.save(1, state_of(1.0), {})
    new.load_into(state_of(0.0))
    new.save(2, state_of(2.0), {})
    old.save(100, state_of(100.0), {})
    assert loaded(tmp_path)[0] == 2


def test_a_step_that_is_not_there(tmp_path: Path) -> None:
    on(tmp_path).save(1, state_of(1.0), {})
    with pytest.raises(ArtifactError, match="no checkpoint of step 7"):
        on(tmp_path).load_into(state_of(0.0), at=7)


def test_another_model_is_refused_and_nothing_changed(tmp_path: Path) -> None:
    on(tmp_path).save(1, state_of(1.0), {})
    state = state_of(5.0) | {"model/a": torch.full((3, 6), 5.0)}
    with pytest.raises(ArtifactError, match=r"another model(.|\n)*model/a"):
        on(tmp_path).load_into(state)
    assert torch.equal(state["model/b"], state_of(5.0)["model/b"])


@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_a_damaged_file_is_named(tmp_path: Path, harm: str) -> None:
    on(tmp_path).save(1, state_of(1.0), {})
    (path,) = tmp_path.rglob("*.safetensors")
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + b"\xff" if harm == "changed" else content[:-8])
    with pytest.raises((DigestError, ArtifactError), match=r"rank-00000-0000\.safetensors"):
        on(tmp_path).load_into(state_of(0.0))


@pytest.mark.parametrize("extra", [{"loss": float("nan")}, {"when": object()}])
def test_what_is_no_json_is_refused(tmp_path: Path, extra: dict[str, Any]) -> None:
    checkpoints = on(tmp_path)
    checkpoints.save(1, state_of(1.0), {})
    with pytest.raises(ArtifactError, match="no JSON"):
        checkpoints.save(2, state_of(2.0), extra)
    assert loaded(tmp_path)[0] == 1


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    class Full(ObjectStore):
        def _put(self, *arguments: Any) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

    on(tmp_path).save(1, state_of(1.0), {})
    with pytest.raises(ServiceError, match="is full"):
        Checkpoints(Full(str(tmp_path)), PREFIX, retries=QUICK).save(2, state_of(2.0), {})
    assert loaded(tmp_path)[0] == 1


def test_a_checkpoint_is_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    on(tmp_path).save(1, state_of(1.0), {})
    (path,) = tmp_path.rglob("*.safetensors")
    assert same(load_file(path), state_of(1.0))


@given(st.lists(st.sampled_from([None, None, None, *FAULTS]), max_size=60), st.lists(st.booleans(), max_size=6))
def test_the_newest_is_whole_and_what_was_acknowledged(faults: list[str | None], restarts: list[bool]) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    store = HostileStore(url, itertools.chain(faults))
    writer = Checkpoints(store, PREFIX, keep=1, retries=QUICK)
    acknowledged = 0
    for step, restart in enumerate([*restarts, False], start=1):
        if restart:
            writer = Checkpoints(store, PREFIX, keep=1, retries=QUICK)
        try:
            writer.save(step, state_of(step), {})
            acknowledged = step
        except (Killed, MillraceError):
            writer = Checkpoints(store, PREFIX, keep=1, retries=QUICK)
        newest = on(url).newest()
        assert (newest.step if newest else 0) >= acknowledged
        if newest is not None:
            found, state = loaded(url)
            assert same(state, state_of(found))


def test_hostile_weather() -> None:
    found = hostile(150, lambda _: None, seed=3)
    assert found["torn"] == found["stale"] == 0
    assert found["committed"] > 50
    assert found["killed"] > 10
