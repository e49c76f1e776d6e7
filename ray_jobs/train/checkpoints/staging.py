"""Copies of a state in host memory, from which a checkpoint is written while the training goes on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.distributed.tensor import DTensor


class HostCopy:
    """Buffers of the size of a state, made at the first copy and kept: pinned where the state is on a GPU."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def of(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The state's values by now, DTensors as DTensors; the copy before it is overwritten.

        All copies have ended when this returns: the next optimizer step changes what was copied.
        """
        found = {name: self._copied(name, tensor) for name, tensor in state.items()}
        if any(tensor.is_cuda for tensor in state.values()):
            torch.cuda.current_stream().synchronize()
        return found

    def close(self) -> None:
        """Let go of the memory."""
        self._buffers.clear()

    def _copied(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        buffer = self._buffers.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (local.shape, local.dtype):
            buffer = torch.empty(local.shape, dtype=local.dtype, pin_memory=local.is_cuda)
            self._buffers[name] = buffer
        buffer.copy_(local, non_blocking=True)
        if not isinstance(tensor, DTensor):
            return buffer
        # Not `from_local`, which moves a shard to its mesh's device.
        return DTensor(buffer, tensor._spec, requires_grad=False)  # type: ignore[no-untyped-call]
