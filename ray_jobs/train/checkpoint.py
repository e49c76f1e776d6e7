"""The resumable state of a training run, as safetensors and JSON: nothing is unpickled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import safetensors.torch
import torch

from millrace import weights
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

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"best_loss": self.best_loss if math.isfinite(self.best_loss) else None}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], history: Any) -> Self:
        """The position that `as_dict` gave, but for its history.

        Raises:
            ValueError: it is none.
        """
        known = set(cls.__dataclass_fields__) - {"history"}
        if set(document) != known:
            raise ValueError(f"a position has {', '.join(sorted(known))}, got {', '.join(document)}")
        loss = document["best_loss"]
        found = cls(**{**document, "best_loss": math.inf if loss is None else loss}, history=history)
        counts = found.epoch, found.step, found.best_epoch
        if any(type(count) is not int or count < 0 for count in counts) or not isinstance(found.best_loss, float | int):
            raise ValueError(f"a position counts in whole numbers, got {document}")
        if not isinstance(history, list) or not all(
            isinstance(epoch, dict) and all(isinstance(value, float | int) for value in epoch.values())
            for epoch in history
        ):
            raise ValueError("a history is a list of measured numbers by name")
        return found


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
    summary = position.as_dict()
    lineage = {"history": summary.pop("history")}
    store.publish(_key(prefix, position.epoch), {_TENSORS: content}, summary=summary, lineage=lineage)


def load_newest(
    store: ObjectStore, prefix: str, epochs: int, module: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Position, dict[str, torch.Tensor]]:
    """Restore the newest committed state in place; a fresh position when there is none.

    Returns:
        The position, and the best weights so far (empty when fresh).

    Raises:
        ArtifactError: the checkpoint is of another model, or no checkpoint.
        SignatureError: nobody who is trusted made it; nothing was parsed.
        DigestError: its bytes differ from its manifest.
    """
    newest = next((found for epoch in range(epochs, 0, -1) if (found := store.find(_key(prefix, epoch)))), None)
    if newest is None:
        return Position(), {}
    tensors = weights.load(newest.read(_TENSORS), f"{newest.key}/{_TENSORS}")
    best = _under("best/", tensors)
    try:
        position = Position.from_dict(newest.summary, newest.lineage.get("history"))
        if _key(prefix, position.epoch) != newest.key:
            raise ValueError(f"it says that it is of epoch {position.epoch}")
        state = _optimizer_state(tensors)
        _require_shapes(module, best)
        _require_state(optimizer, state)
        module.load_state_dict(_under("model/", tensors))
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"checkpoint {newest.key} does not fit the model", got=str(error), next=f"delete the prefix {prefix}"
        ) from error
    return position, best


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


def _require_shapes(module: torch.nn.Module, best: Mapping[str, torch.Tensor]) -> None:
    own = {name: (tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()}
    if best and {name: (tensor.shape, tensor.dtype) for name, tensor in best.items()} != own:
        raise ValueError("its best weights are another model's")


def _require_state(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
    """torch takes an optimizer's state as it comes, and fails in the middle of the next step."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parts in state.items():
        if not 0 <= index < len(parameters):
            raise ValueError(f"the optimizer has no parameter {index}")
        for name, tensor in parts.items():
            if tensor.dim() and tensor.shape != parameters[index].shape:
                raise ValueError(f"size mismatch for the optimizer's {name} of parameter {index}")
