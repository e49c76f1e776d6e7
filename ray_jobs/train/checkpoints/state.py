"""What a checkpoint holds of a model and its optimizer: tensors by fully qualified name, the same in every layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from millrace.errors import ArtifactError

Tensors = dict[str, torch.Tensor]
Signatures = dict[str, tuple[tuple[int, ...], torch.dtype]]

_MODEL, _OPTIMIZER = "model/", "optimizer/"
_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def capture(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """The tensors of both, not copied. An optimizer that has made no step yet gets its state first.

    Learning rates and the like are not among them: they follow from the spec and the step.
    """
    model = {f"{_MODEL}{name}": value for name, value in get_model_state_dict(module).items()}
    found: dict[str, Any] = get_optimizer_state_dict(module, optimizer, options=_FLAT)
    tensors = {f"{_OPTIMIZER}{name}": value for name, value in found.items() if name.startswith("state.")}
    both: dict[str, Any] = model | tensors
    return {name: value for name, value in both.items() if isinstance(value, torch.Tensor)}


def restore(module: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what `capture` gave, filled by `Checkpoints.load_into`."""
    set_model_state_dict(module, dict(_under(_MODEL, tensors)))
    current: dict[str, Any] = get_optimizer_state_dict(module, optimizer, options=_FLAT)
    set_optimizer_state_dict(module, optimizer, {**current, **_under(_OPTIMIZER, tensors)}, options=_FLAT)


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def signatures(state: Mapping[str, torch.Tensor]) -> Signatures:
    """Shape, of the whole tensor, and type of each."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}


def require_same(stored: Signatures, wanted: Signatures, key: str) -> None:
    """That a checkpoint is of the model that is to be filled.

    Raises:
        ArtifactError: names, shapes or types differ; nothing was changed.
    """
    differences = [
        f"{name}: stored {stored.get(name, 'not')}, wanted {wanted.get(name, 'not')}"
        for name in sorted(stored.keys() | wanted.keys())
        if stored.get(name) != wanted.get(name)
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise ArtifactError(
            f"checkpoint {key} is of another model",
            got="; ".join(differences[:3]) + more,
            allowed="the same tensors, each with its shape and type",
            next="train under a new prefix, or give the model and optimizer that it was saved from",
        )
