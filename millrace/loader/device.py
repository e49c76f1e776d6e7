"""Batches on their way to the device: pinned buffers and a stream of their own, so that copies run beside the steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Arrays = dict[str, npt.NDArray[Any]]
Layout = Mapping[str, tuple[tuple[int, ...], Any]]


@dataclass
class Placed:
    """Tensors whose copy was begun; `event` is when it ends, None where there is nothing to wait for."""

    tensors: dict[str, torch.Tensor]
    event: torch.cuda.Event | None = None

    def receive(self) -> dict[str, torch.Tensor]:
        """The tensors, for the current stream: what it does next waits for the copy, the host does not."""
        import torch

        if self.event is not None:
            stream = torch.cuda.current_stream(next(iter(self.tensors.values())).device)
            stream.wait_event(self.event)
            for tensor in self.tensors.values():
                tensor.record_stream(stream)
        return self.tensors


class ToHost:
    """For a training on the CPU: the gathered arrays are the tensors."""

    def __init__(self, *, widen: bool) -> None:
        self._widen = widen

    def buffers(self, layout: Layout) -> Arrays:
        """Arrays to gather a batch into, by column: shape and dtype as in `layout`."""
        return {name: np.empty(shape, dtype) for name, (shape, dtype) in layout.items()}

    def place(self, arrays: Arrays) -> Placed:
        import torch

        return Placed(
            {name: torch.from_numpy(array.astype(np.int64) if self._widen else array) for name, array in arrays.items()}
        )


class ToCuda:
    """For a CUDA device. `depth` + 1 sets of pinned buffers go round; one is used again when its copy has ended.

    Token columns cross the bus in the dtype that they are stored in, and become int64 there (`widen`).
    """

    def __init__(self, device: torch.device, depth: int, *, widen: bool) -> None:
        import torch

        self._device, self._widen = device, widen
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pinned: list[dict[str, torch.Tensor]] = [{} for _ in range(depth + 1)]
        self._events: list[torch.cuda.Event | None] = [None] * (depth + 1)
        self._turn = 0

    def buffers(self, layout: Layout) -> Arrays:
        """Pinned arrays to gather a batch into; waits until their last copy has ended."""
        import torch

        event = self._events[self._turn]
        if event is not None:
            event.synchronize()
        pinned, found = self._pinned[self._turn], {}
        for name, (shape, dtype) in layout.items():
            num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            if name not in pinned or pinned[name].numel() < num_bytes:
                pinned[name] = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
            found[name] = pinned[name].numpy()[:num_bytes].view(dtype).reshape(shape)
        return found

    def place(self, arrays: Arrays) -> Placed:
        """Begin the copy of `arrays`, which are the last `buffers`."""
        import torch

        with torch.cuda.stream(self._stream):
            tensors = {}
            for name, array in arrays.items():
                # The same memory as the array's, as torch knows that it is pinned.
                raw = self._pinned[self._turn][name][: array.nbytes]
                host = raw.view(torch.from_numpy(array[:0]).dtype).view(array.shape)
                tensor = host.to(self._device, non_blocking=True)
                tensors[name] = tensor.to(torch.int64) if self._widen else tensor
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        self._events[self._turn] = event
        self._turn = (self._turn + 1) % len(self._pinned)
        return Placed(tensors, event)


def placer(device: torch.device, depth: int, *, widen: bool) -> ToHost | ToCuda:
    """What brings batches to `device`, `depth` of them at a time."""
    return ToCuda(device, depth, widen=widen) if device.type == "cuda" else ToHost(widen=widen)
