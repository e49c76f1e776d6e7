"""A model as other programs know it: the files that Hugging Face's libraries load a model from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.errors import ConfigError
from millrace.storage import write_atomically

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Exported:
    """The configuration of an architecture that others have, and the weights by the names they have there."""

    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]


def write(exported: Exported, folder: Path) -> list[Path]:
    """Write config.json and model.safetensors into `folder`, which is made; the files, the weights first.

    Raises:
        ConfigError: the folder holds something already, or cannot be made.
    """
    import safetensors.torch

    try:
        folder.mkdir(parents=True, exist_ok=True)
        if held := sorted(path.name for path in folder.iterdir()):
            raise ConfigError(f"{folder} is not empty", got=", ".join(held[:5]), next="name another folder")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written to", got=str(error), next="name another folder") from error
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in exported.tensors.items()}
    # Without this word Hugging Face's loader refuses the file.
    content = {WEIGHTS: safetensors.torch.save(tensors, metadata={"format": "pt"})}
    # Last: whoever finds it finds all.
    content[CONFIG] = (json.dumps(dict(exported.config), indent=2) + "\n").encode()
    for name, raw in content.items():
        write_atomically(folder / name, raw)
    return [folder / name for name in content]
