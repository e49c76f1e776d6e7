"""The engine of a lone worker: accumulation, clipping, recomputation, precision, and what a bad gradient changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from millrace.parallel import ParallelPlan
from ray_jobs.train.layout.apply import Memory, Recompute
from ray_jobs.train.layout.engine import Engine, Optimization
from ray_jobs.train.layout.mesh import Layout

ROWS = 12


class Tower(nn.Module):
    """Blocks that are alike, with something before and after."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Linear(3, 8)
        self.layers = nn.ModuleDict({str(number): nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for number in range(3)})
        self.after = nn.Linear(8, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.before(rows)
        for layer in self.layers.values():
            hidden = hidden + layer(hidden)
        out: torch.Tensor = self.after(hidden)
        return out[:, 0]


PLAN = ParallelPlan(blocks="layers", before=("before",), after=("after",))


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(outputs, targets)


def engine(memory: Memory = Memory(), **optimization: float) -> Engine:  # noqa: B008 - frozen
    settings = Optimization(**{"gradient_clip": 1e9, **optimization})
    return Engine(Tower(), PLAN, loss, Layout(), torch.device("cpu"), memory, settings)


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    rows = torch.randn(ROWS, 3, generator=generator)
    return rows, rows.sum(dim=1)


def curve(found: Engine, steps: int = 8) -> list[float]:
    return [found.step(*batch(number), 0.01).loss for number in range(steps)]


@pytest.mark.parametrize("parts", [2, 3, 5, 12, 20])
def test_accumulation_changes_nothing(parts: int) -> None:
    assert curve(engine(accumulation=parts)) == pytest.approx(curve(engine()), rel=1e-5)


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputation_changes_nothing(recompute: Recompute) -> None:
    assert curve(engine(Memory(recompute=recompute))) == curve(engine())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns_the_same(precision: str) -> None:
    exact, found = curve(engine(), 40), curve(engine(Memory(precision=precision)), 40)
    assert found[-1] < 0.5 * found[0]
    assert found[-1] == pytest.approx(exact[-1], rel=0.5), "FP16 leaves out the first steps, until the scale fits"


def test_the_loss_and_the_norm_are_those_of_plain_torch() -> None:
    plain, (rows, targets) = Tower(), batch(0)
    expected = loss(plain(rows), targets)
    expected.backward()
    norm = math.sqrt(sum(float((parameter.grad**2).sum()) for parameter in plain.parameters()))
    step = engine().step(rows, targets, 0.01)
    assert step.loss == pytest.approx(float(expected.detach()), rel=1e-6)
    assert step.gradient_norm == pytest.approx(norm, rel=1e-5)
    assert step.taken


def test_a_gradient_is_clipped_to_its_largest_norm() -> None:
    """Of plain SGD the change is the gradient; of Adam the second moment shows what it was given."""
    found = engine(gradient_clip=0.01)
    assert found.step(*batch(0), 0.01).gradient_norm > 0.01
    moments = [value for name, value in found.state()["optimizer"].items() if name.endswith("exp_avg")]
    taken = math.sqrt(sum(float((moment**2).sum()) for moment in moments)) / (1 - 0.9)
    assert taken == pytest.approx(0.01, rel=1e-3)


def test_a_bad_gradient_changes_nothing_and_is_told() -> None:
    found = engine()
    curve(found, 2)
    before = {name: tensor.clone() for name, tensor in found.state()["model"].items()}
    rows, targets = batch(0)
    step = found.step(rows, targets * math.nan, 0.01)
    assert not step.taken
    assert math.isnan(step.gradient_norm)
    after = found.state()["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_overflow_in_fp16_lowers_the_scale_until_it_fits() -> None:
    found = engine(Memory(precision="fp16"))
    found.scale.scale = 2.0**24
    rows, targets = batch(0)
    taken = [found.step(rows, 1000 * targets, 0.0).taken for _ in range(30)]
    assert taken[0] is False
    assert taken[-1] is True
    assert found.scale.scale < 2.0**24


def test_state_that_is_loaded_goes_on_as_if_nothing_had_happened() -> None:
    one, other = engine(), engine()
    expected = curve(one, 6)
    curve(other, 3)
    kept = {
        part: {name: torch.as_tensor(value).clone() for name, value in each.items()}
        for part, each in other.state().items()
    }
    resumed = engine()
    resumed.load(kept)
    assert [resumed.step(*batch(number), 0.01).loss for number in range(3, 6)] == expected[3:]


def test_names_in_the_state_are_those_of_the_module_whatever_wraps_its_blocks() -> None:
    plain, wrapped = engine(), engine(Memory(recompute="full"))
    assert plain.state()["model"].keys() == wrapped.state()["model"].keys() == Tower().state_dict().keys()
    wrapped.load(plain.state())


def test_scoring_leaves_no_gradient_and_takes_any_part_of_the_rows() -> None:
    found, (rows, targets) = engine(), batch(0)
    assert found.evaluate(rows, targets) == pytest.approx(float(loss(Tower()(rows), targets).detach()), rel=1e-6)
    assert all(parameter.grad is None for parameter in found.parameters)
    assert torch.equal(found.outputs(rows[:5]), Tower()(rows[:5]).detach())


def test_a_whole_state_is_taken_over_and_goes_on() -> None:
    one, other = engine(), engine()
    expected = curve(one, 6)
    curve(other, 3)
    kept = {part: {name: value.clone() for name, value in each.items()} for part, each in other.whole_state().items()}
    resumed = engine()
    resumed.load_whole(kept)
    assert [resumed.step(*batch(number), 0.01).loss for number in range(3, 6)] == expected[3:]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda model: model.update({"after.weight": torch.zeros(2, 8)}),
            r"after\.weight: .* is wanted, there is .* \[2, 8\]",
        ),
        (lambda model: model.pop("after.weight"), r"after\.weight: .* there is nothing"),
        (lambda model: model.update({"more": torch.zeros(1)}), "the model has no more"),
    ],
)
def test_another_models_state_is_refused_and_nothing_taken(change: Callable[[Any], None], told: str) -> None:
    found = engine()
    state = {part: {name: value.clone() for name, value in each.items()} for part, each in found.whole_state().items()}
    for name in state["model"]:
        state["model"][name] += 1
    change(state["model"])
    with pytest.raises(ValueError, match=told):
        found.load_whole(state)
    assert all(torch.equal(value, Tower().state_dict()[name]) for name, value in found.state()["model"].items())
