"""What a training fits, and on what: the only thing that the loop knows of tables, texts or anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from millrace.encoding import TableInputs
from millrace.shards import SampleSet
from millrace.texts import TextInputs
from ray_jobs.train.layout.engine import Inputs as Given
from ray_jobs.train.layout.engine import Loss

#: What a pipeline's build function and its plan are given.
Inputs = TableInputs | TextInputs
#: A batch of the loader, [rows, ...] by column, to the module's inputs and its targets.
Divide = Callable[[Mapping[str, torch.Tensor]], tuple[Given, torch.Tensor]]


@dataclass(frozen=True)
class Problem:
    """Samples in shards, what the module is told of them, and how their columns become inputs, targets and a loss."""

    inputs: Inputs
    training: SampleSet
    validation: SampleSet
    divide: Divide
    loss: Loss
