"""The resumable state of a training run, as safetensors and JSON: nothing is unpickled."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import safetensors.torch
import torch

from millrace.errors import ArtifactError
from millrace.storage import ObjectStore

_TENSORS = "state.safetensors"


@dataclass
class Position:
    """How far a run has come: whole epochs done, optimizer steps done, and the best epoch so far."""

    epoch: int = 0
    step: int = 0
    best_loss: float = float("inf")
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def stale_epochs(self) -> int:
        return self.epoch - self.best_epoch


def save(
    store: ObjectStore,
    prefix: str,
    position: Position,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, torch.Tensor],
) -> None:
    """Commit the state after `position.epoch` whole epochs."""
    tensors = {f"model/{name}": tensor for name, tensor in module.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in state.items()}
    content = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    # The history holds speeds, which no two runs share: it is no part of what the checkpoint's digest names.
    summary = asdict(position)
    lineage = {"history": summary.pop("history")}
    store.publish(_key(prefix, position.epoch), {_TENSORS: content}, summary=summary, lineage=lineage)


def load_newest(
    store: ObjectStore, prefix: str, epochs: int, module: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Position, dict[str, torch.Tensor]]:
    """Restore the newest committed state in place; a fresh position when there is none.

    Returns:
        The position, and the best weights so far (empty when fresh).

    Raises:
        ArtifactError: the checkpoint is of another model.
        DigestError: its bytes differ from its manifest.
    """
    newest = next((found for epoch in range(epochs, 0, -1) if (found := store.find(_key(prefix, epoch)))), None)
    if newest is None:
        return Position(), {}
    tensors = safetensors.torch.load(newest.read(_TENSORS))
    try:
        module.load_state_dict(_under("model/", tensors))
        optimizer.load_state_dict(
            {"state": _optimizer_state(tensors), "param_groups": optimizer.state_dict()["param_groups"]}
        )
    except (RuntimeError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"checkpoint {newest.key} does not fit the model", got=str(error), next=f"delete the prefix {prefix}"
        ) from error
    position = Position(**newest.summary, history=list(newest.lineage["history"]))
    return position, _under("best/", tensors)


def _key(prefix: str, epoch: int) -> str:
    return f"{prefix}/epoch-{epoch:05d}"


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _optimizer_state(tensors: dict[str, torch.Tensor]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in _under("optimizer/", tensors).items():
        index, _, part = name.partition("/")
        state.setdefault(int(index), {})[part] = tensor
    return state
