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


#: Tensors by their names in the whole module: of the `model`, and of the `optimizer`.
State = Mapping[str, Mapping[str, torch.Tensor]]


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


@dataclass(frozen=True)
class Checkpoint:
    """What was saved under `key`; `scale` is the state of the loss scale."""

    key: str
    position: Position
    state: State
    best: dict[str, torch.Tensor]
    scale: dict[str, Any]


def save(
    store: ObjectStore,
    prefix: str,
    position: Position,
    state: State,
    best: Mapping[str, torch.Tensor],
    scale: Mapping[str, Any] | None = None,
) -> None:
    """Commit the state after `position.epoch` whole epochs: model, optimizer, the best model so far, the loss scale."""
    tensors = {f"{part}/{name}": tensor for part, values in state.items() for name, tensor in values.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    content = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    # The history holds speeds, which no two runs share: it is no part of what the checkpoint's digest names.
    summary = position.as_dict()
    lineage = {"history": summary.pop("history")}
    store.publish(
        _key(prefix, position.epoch),
        {_TENSORS: content},
        summary=summary | {"scale": dict(scale or {})},
        lineage=lineage,
    )


def load_newest(store: ObjectStore, prefix: str, epochs: int) -> Checkpoint | None:
    """The newest committed state; None when there is none.

    Raises:
        ArtifactError: it is no checkpoint.
        SignatureError: nobody who is trusted made it; nothing was parsed.
        DigestError: its bytes differ from its manifest.
    """
    newest = next((found for epoch in range(epochs, 0, -1) if (found := store.find(_key(prefix, epoch)))), None)
    if newest is None:
        return None
    tensors = weights.load(newest.read(_TENSORS), f"{newest.key}/{_TENSORS}")
    try:
        summary = dict(newest.summary)
        scale = dict(summary.pop("scale"))
        position = Position.from_dict(summary, newest.lineage.get("history"))
        if _key(prefix, position.epoch) != newest.key:
            raise ValueError(f"it says that it is of epoch {position.epoch}")
    except (KeyError, ValueError, TypeError) as error:
        raise unfit(newest.key, prefix, error) from error
    state = {part: _under(f"{part}/", tensors) for part in ("model", "optimizer")}
    return Checkpoint(newest.key, position, state, _under("best/", tensors), scale)


def unfit(key: str, prefix: str, error: Exception) -> ArtifactError:
    """The error for a checkpoint that is none of this model's."""
    return ArtifactError(f"checkpoint {key} does not fit the model", got=str(error), next=f"delete the prefix {prefix}")


def _key(prefix: str, epoch: int) -> str:
    return f"{prefix}/epoch-{epoch:05d}"


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
