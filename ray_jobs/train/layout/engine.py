"""One face for all layouts: take a step on this worker's part of a batch, score, and give or take the state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from millrace.parallel import ParallelPlan
from ray_jobs.train.layout.apply import DTYPES, Memory, apply, stage
from ray_jobs.train.layout.gradients import LossScale, scale_all, squared_norm
from ray_jobs.train.layout.mesh import Layout, build_mesh

#: Mean loss of a part of a batch: outputs of the module, float32, and targets.
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Inputs = torch.Tensor | Mapping[str, torch.Tensor]
#: Asked once in a step, after the backward pass: what this worker says yes to, equally many things on each worker.
Votes = Callable[[], Sequence[bool]]


@dataclass(frozen=True)
class Step:
    """Mean loss over the batch of all workers, the norm of its gradient before clipping, and whether it was taken.

    `votes`: what at least one worker said yes to.
    """

    loss: float
    gradient_norm: float
    taken: bool
    votes: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Optimization:
    """AdamW (Loshchilov & Hutter 2019), the largest norm of a gradient, and in how many parts a batch is worked on."""

    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    accumulation: int = 1
    betas: tuple[float, float] = (0.9, 0.999)


class Engine:
    """A module, spread over the workers.

    Every worker calls everything at the same time. The module is the whole one, the same on each worker (built from one
    seed); the layout decides what of it this worker keeps. Parts of a tensor or pipeline parallel group are given the
    same batch: `data_rank` of `data_world` says which.
    """

    def __init__(
        self,
        module: nn.Module,
        plan: ParallelPlan,
        loss: Loss,
        layout: Layout,
        device: torch.device,
        memory: Memory = Memory(),  # noqa: B008 - frozen
        optimization: Optimization = Optimization(),
    ) -> None:
        self.layout, self.device, self.memory, self.optimization = layout, device, memory, optimization
        self._loss, self.plan = loss, plan
        self._mesh = build_mesh(layout, device.type) if layout.world_size > 1 else None
        self._stage_indices = self._indices()
        if layout.stages > 1:
            cut = [stage(module, plan, index, layout.num_stages) for index in self._stage_indices]
            self._modules = [each.to(device) for each in cut]
        else:
            self._modules = [module.to(device)]
        self._called = [apply(each, plan, layout, self._mesh, memory) for each in self._modules]
        self._schedule: Any = self._pipeline() if layout.stages > 1 else None
        self._optimizers = [
            torch.optim.AdamW(
                each.parameters(),
                lr=0.0,
                betas=optimization.betas,
                weight_decay=optimization.weight_decay,
                fused=True,
            )
            for each in self._modules
        ]
        self.scale = LossScale.of(memory.precision)

    @property
    def data_rank(self) -> int:
        """Which part of each batch is this worker's."""
        if self._mesh is None:
            return 0
        replicate, shard = (self._mesh.get_local_rank(name) for name in ("dp_replicate", "dp_shard"))
        return int(replicate) * self.layout.shard + int(shard)

    @property
    def data_world(self) -> int:
        return self.layout.data_world

    @property
    def parameters(self) -> list[nn.Parameter]:
        """This worker's parameters, or its shards of them."""
        return [parameter for module in self._modules for parameter in module.parameters()]

    def step(
        self,
        inputs: Inputs,
        targets: torch.Tensor,
        learning_rate: float,
        rows: int | None = None,
        votes: Votes = tuple,
    ) -> Step:
        """Take one optimizer step on a batch of `rows`, of which this worker has `inputs` and `targets`.

        A gradient that is not finite changes nothing; in FP16 the scale is lowered. Without `rows`, all parts are taken
        to be as large as this one.
        """
        for module in self._called:
            module.train()
        mine = len(targets)
        share = 1.0 if rows is None else mine * self.data_world / rows
        if self._schedule is not None:
            loss = self._pipeline_backward(inputs, targets, share)
        else:
            loss = self._backward(inputs, targets, share)
        parameters = self.parameters
        squared, mean, *yes = self._summed(squared_norm(parameters, self.layout.stages), loss, votes())
        norm = math.sqrt(squared) / self.scale.scale if math.isfinite(squared) else math.nan
        finite = math.isfinite(norm)
        if finite:
            clip = min(1.0, self.optimization.gradient_clip / (norm + 1e-6))
            scale_all(parameters, clip / self.scale.scale)
            for optimizer in self._optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate
                optimizer.step()
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.scale.update(finite)
        return Step(mean / self.layout.world_size, norm, finite, tuple(count > 0 for count in yes))

    @torch.no_grad()
    def evaluate(self, inputs: Inputs, targets: torch.Tensor) -> float:
        """Mean loss of this data rank's rows, without dropout; the same on all workers of one data rank."""
        for module in self._called:
            module.eval()
        if self._schedule is not None:
            losses: list[torch.Tensor] = []
            self._run_schedule(self._schedule.eval, inputs, targets, 1.0, losses)
            return self._from_last_stage(torch.stack(losses).mean() if losses else None)
        with self._autocast():
            outputs = self._called[0](_on(inputs, self.device))
        return float(self._loss(outputs.float(), targets.to(self.device)))

    @torch.no_grad()
    def outputs(self, inputs: Inputs) -> torch.Tensor:
        """The module's outputs for `inputs`, float32 on the CPU; with a pipeline, on the workers of its last stage."""
        for module in self._called:
            module.eval()
        if self._schedule is None:
            with self._autocast():
                found: torch.Tensor = self._called[0](_on(inputs, self.device))
            return found.float().cpu()
        with self._autocast():
            given = [_on(inputs, self.device)] if self._has_first_stage else []
            # A schedule wants targets for its last stage, whether they count or not.
            self._scores = False
            wanted = {"target": torch.zeros(len(inputs)), "losses": []} if self._has_last_stage else {}
            results = self._schedule.eval(*given, **wanted)
            self._scores = True
        return results.float().cpu() if isinstance(results, torch.Tensor) else torch.empty(0)

    def state(self) -> dict[str, Any]:
        """Model and optimizer by the names in the whole module, as DTensors where they are sharded, and the scale.

        The same names and global shapes in any layout: what one has saved, another loads. The tensors are those that
        are trained: who saves later copies them first.
        """
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_model_state_dict,
            get_optimizer_state_dict,
        )

        options = StateDictOptions(flatten_optimizer_state_dict=True)
        model: dict[str, Any] = {}
        optimizer: dict[str, Any] = {}
        for module, each in zip(self._modules, self._optimizers, strict=True):
            model |= get_model_state_dict(module)
            found = get_optimizer_state_dict(module, each, options=options)
            # Settings are the spec's; what a resumed run has learned is its moments.
            optimizer |= {name: value for name, value in found.items() if name.startswith("state.")}
        return {"model": model, "optimizer": optimizer}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave, of the same layout; a checkpoint reads into `state()` in place first.

        Raises:
            RuntimeError: it is another model's.
        """
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_optimizer_state_dict,
            set_model_state_dict,
            set_optimizer_state_dict,
        )

        options = StateDictOptions(flatten_optimizer_state_dict=True)
        for module, optimizer in zip(self._modules, self._optimizers, strict=True):
            names = set(module.state_dict())
            own = {name: value for name, value in state["model"].items() if name in _plain(names)}
            set_model_state_dict(module, own)
            current = get_optimizer_state_dict(module, optimizer, options=options)
            merged = {name: state["optimizer"].get(name, value) for name, value in current.items()}
            set_optimizer_state_dict(module, optimizer, merged, options=options)

    def whole_state(self) -> dict[str, dict[str, torch.Tensor]]:
        """`state`, whole and on the CPU, on the first worker; all of them must ask, the others get nothing of use."""
        from torch.distributed.tensor import DTensor

        found = {
            part: {
                name: (value.full_tensor() if isinstance(value, DTensor) else torch.as_tensor(value)).cpu()
                for name, value in values.items()
            }
            for part, values in self.state().items()
        }
        if self.layout.stages == 1:
            return found
        group = self._pipeline_group
        is_first = dist.get_group_rank(group, dist.get_rank()) == 0
        stages: list[Any] | None = [None] * self.layout.stages if is_first else None
        dist.gather_object(found, stages, dst=dist.get_global_rank(group, 0), group=group)
        for each in stages or []:
            for part, values in each.items():
                found[part] |= values
        return found

    def load_whole(self, state: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Take what `whole_state` gave, in this or any other layout.

        Raises:
            ValueError: it is another model's; nothing was taken.
        """
        own = self.state()
        for part, values in own.items():
            for name, value in values.items():
                _require_like(name, torch.as_tensor(value), state[part].get(name))
            if self.layout.stages == 1 and (strange := sorted(set(state[part]) - set(values))):
                raise ValueError(f"the {part} has no {strange[0]}")
        for part, values in own.items():
            for name, value in values.items():
                values[name] = _filled(value, state[part][name])
        self.load(own)

    def _indices(self) -> list[int]:
        if self._mesh is None or self.layout.stages == 1:
            return [0]
        rank = int(self._mesh.get_local_rank("pp"))
        return [rank + self.layout.stages * number for number in range(self.layout.stages_per_worker)]

    @property
    def _pipeline_group(self) -> Any:
        return None if self._mesh is None else self._mesh["pp"].get_group()

    @property
    def _has_first_stage(self) -> bool:
        return 0 in self._stage_indices

    @property
    def _has_last_stage(self) -> bool:
        return self.layout.num_stages - 1 in self._stage_indices

    def _autocast(self) -> AbstractContextManager[Any]:
        # FSDP casts parameters itself; elsewhere autocast does.
        is_cast = self.memory.precision == "fp32" or (self._mesh is not None and not self.layout.is_plain)
        return nullcontext() if is_cast else torch.autocast(self.device.type, DTYPES[self.memory.precision])

    def _backward(self, inputs: Inputs, targets: torch.Tensor, share: float) -> torch.Tensor:
        from torch.distributed.fsdp import FSDPModule

        [module] = self._called
        inputs, targets = _on(inputs, self.device), targets.to(self.device)
        sizes = [len(part) for part in targets.tensor_split(self.optimization.accumulation)]
        total, start = torch.zeros((), device=self.device), 0
        for size in filter(None, sizes):
            is_last = start + size == len(targets)
            with ExitStack() as stack:
                if isinstance(module, nn.parallel.DistributedDataParallel) and not is_last:
                    stack.enter_context(module.no_sync())
                if isinstance(module, FSDPModule):
                    module.set_requires_gradient_sync(is_last)
                with self._autocast():
                    outputs = module(_part(inputs, start, size))
                loss = self._loss(outputs.float(), targets[start : start + size]) * (share * size / len(targets))
                (loss * self.scale.scale).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            start += size
        return total

    def _pipeline(self) -> Any:
        from torch.distributed.pipelining import PipelineStage
        from torch.distributed.pipelining.schedules import get_schedule_class

        group = self._pipeline_group
        stages = [
            PipelineStage(module, index, self.layout.num_stages, self.device, group=group)
            for module, index in zip(self._called, self._stage_indices, strict=True)
        ]
        kind: Any = get_schedule_class(self.layout.schedule)
        self._share, self._scores = 1.0, True

        def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return self._loss(outputs.float(), targets) * self._share if self._scores else outputs.new_zeros(())

        return kind(
            stages if self.layout.stages_per_worker > 1 else stages[0],
            n_microbatches=self.layout.microbatches,
            loss_fn=loss,
        )

    def _pipeline_backward(self, inputs: Inputs, targets: torch.Tensor, share: float) -> torch.Tensor:
        losses: list[torch.Tensor] = []
        self._run_schedule(self._schedule.step, inputs, targets, share * self.scale.scale, losses)
        mean = torch.stack(losses).mean() / self.scale.scale if losses else None
        return torch.tensor(self._from_last_stage(mean), device=self.device)

    def _run_schedule(
        self, run: Callable[..., Any], inputs: Inputs, targets: torch.Tensor, share: float, losses: list[torch.Tensor]
    ) -> None:
        self._share = share
        given = [_on(inputs, self.device)] if self._has_first_stage else []
        wanted = {"target": targets.to(self.device), "losses": losses} if self._has_last_stage else {}
        with self._autocast():
            run(*given, **wanted)

    def _from_last_stage(self, loss: torch.Tensor | None) -> float:
        """What the last stage found, on all stages."""
        group = self._pipeline_group
        value = torch.zeros(1, device=self.device) if loss is None else loss.detach().reshape(1).to(torch.float32)
        source = dist.get_global_rank(group, (self.layout.num_stages - 1) % self.layout.stages)
        dist.broadcast(value, source, group=group)
        return float(value)

    def _summed(self, squared: torch.Tensor, loss: torch.Tensor, votes: Sequence[bool]) -> list[float]:
        """All numbers of a step, summed over the workers in one round: each round costs all of them its latency."""
        yes = torch.tensor(votes, dtype=torch.float64, device=squared.device)
        numbers = torch.cat([torch.stack([squared, loss.detach().double()]), yes])
        if self._mesh is not None:
            dist.all_reduce(numbers)
        return [float(number) for number in numbers.tolist()]


def _plain(names: Sequence[str] | set[str]) -> set[str]:
    """Names without what wrappers put into them."""
    return {name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "") for name in names}


def _require_like(name: str, value: torch.Tensor, given: torch.Tensor | None) -> None:
    if given is None or (given.shape, given.dtype) != (value.shape, value.dtype):
        got = "nothing" if given is None else f"{given.dtype} {list(given.shape)}"
        raise ValueError(f"size mismatch for {name}: {value.dtype} {list(value.shape)} is wanted, there is {got}")


def _filled(value: Any, given: torch.Tensor) -> Any:
    """`value`, a tensor or a part of one, with what `given`, the whole one, has there."""
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if not isinstance(value, torch.Tensor):
        return given.item()
    if isinstance(value, DTensor):
        shape, offset = compute_local_shape_and_global_offset(value.shape, value.device_mesh, value.placements)
        mine = tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))
        value.to_local().copy_(given[mine])
    else:
        value.copy_(given)
    return value


def _on(inputs: Inputs, device: torch.device) -> Inputs:
    if isinstance(inputs, torch.Tensor):
        return inputs.to(device, non_blocking=True)
    return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}


def _part(inputs: Inputs, start: int, size: int) -> Inputs:
    if isinstance(inputs, torch.Tensor):
        return inputs[start : start + size]
    return {name: tensor[start : start + size] for name, tensor in inputs.items()}
