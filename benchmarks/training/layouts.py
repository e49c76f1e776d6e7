"""Whether every layout trains the same model: loss curves beside a single process, states taken over from one another.

All on the CPU, with gloo, in float32. The data are bytes in which every other one repeats the one before it, so that
there is something to learn in a hundred steps.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch.nn import functional

from benchmarks.parts import Tell
from millrace.parallel import ParallelPlan
from millrace.pipeline import load_module
from millrace.storage import ObjectStore, digest_file
from millrace.texts import TextInputs
from ray_jobs.train.checkpoints.checkpoints import Checkpoints
from ray_jobs.train.layout.apply import Memory
from ray_jobs.train.layout.checks import check
from ray_jobs.train.layout.engine import Engine, Optimization
from ray_jobs.train.layout.mesh import Layout
from ray_jobs.train.saver import flat, parts

STEPS = 100
RESHARDED_TO = 3
#: Of logits, float32: what another order of sums may change.
LOGITS_TOLERANCE = 1e-5

LAYOUTS = (
    Layout(replicate=2),
    Layout(shard=2),
    Layout(tensor=2),
    Layout(tensor=2, sequence=True),
    Layout(stages=2, schedule="GPipe", microbatches=4),
    Layout(stages=2, schedule="1F1B", microbatches=4),
    Layout(stages=2, schedule="Interleaved1F1B", stages_per_worker=2, microbatches=4),
    Layout(replicate=4),
    Layout(shard=4),
    Layout(tensor=4, sequence=True),
    Layout(stages=4, microbatches=8),
    Layout(replicate=2, shard=2),
    Layout(replicate=2, tensor=2),
    Layout(shard=2, tensor=2, sequence=True),
    Layout(replicate=2, stages=2, schedule="GPipe", microbatches=2),
    Layout(shard=2, stages=2, schedule="Interleaved1F1B", stages_per_worker=2, microbatches=4),
    Layout(tensor=2, sequence=True, stages=2, microbatches=4),
    Layout(shard=8),
    Layout(replicate=2, shard=4),
    Layout(replicate=2, shard=2, tensor=2, sequence=True),
    Layout(replicate=2, shard=2, stages=2, microbatches=2),
    Layout(shard=2, tensor=2, sequence=True, stages=2, microbatches=2),
    Layout(replicate=2, tensor=2, stages=2, schedule="Interleaved1F1B", stages_per_worker=2, microbatches=2),
    Layout(tensor=2, stages=4, schedule="1F1B", microbatches=8),
)

_PIPELINE = Path(__file__).parents[2] / "pipelines" / "byte_lm"
_LENGTH, _BATCH, _VOCABULARY = 32, 16, 256
_DEPTH = 8
_OPTIONS = {"size": "1M", "width": 128, "depth": _DEPTH, "heads": 8, "kv_heads": 4, "hidden": 352}
_RUN = "checkpoints/byte_lm/run"
_LEARNING_RATE, _WARM_UP = 1e-3, 20


@dataclass(frozen=True)
class Job:
    """Train in `layout`, after it has loaded the checkpoint in the store `source`; the store `state` gets its own."""

    layout: Layout
    state: str
    source: str | None = None
    steps: int = STEPS


def measure(tell: Tell) -> dict[str, Any]:
    """All layouts: the largest relative difference of the loss over all steps, and three others that took its state."""
    with tempfile.TemporaryDirectory(prefix="millrace-layouts-") as folder:
        found = compare(LAYOUTS, STEPS, Path(folder), tell)
    worst = max(each["max_relative_difference"] for each in found)
    return {
        "layouts": found,
        "layouts_worst_difference": worst,
        "layouts_count": len(found),
        "layouts_resharded_wrong": sum(each["resharded_wrong"] for each in found),
    }


def compare(layouts: Sequence[Layout], steps: int, folder: Path, tell: Tell) -> list[dict[str, Any]]:
    """Train in each layout and alone; give each one's state to `RESHARDED_TO` others, and look at what they have."""
    single = Layout()
    trained = {each.name: str(folder / each.name) for each in (single, *layouts)}
    jobs = [Job(each, trained[each.name], steps=steps) for each in (single, *layouts)]
    curves: dict[str, Any] = {}
    for size, some in groupby(jobs, key=lambda job: job.layout.world_size):
        results = run(list(some), size, folder / f"train-{size}")
        curves |= {result["layout"]: result for result in results}
        tell(f"{len(curves)} of {len(jobs)} trained; {size} processes")
    moves = [
        Job(target, str(folder / f"{source.name}--{target.name}"), trained[source.name], steps=0)
        for source, targets in targets_of(layouts)
        for target in targets
    ]
    moved: dict[str, list[dict[str, Any]]] = {}
    moves.sort(key=lambda job: job.layout.world_size)
    for size, some in groupby(moves, key=lambda job: job.layout.world_size):
        for result in run(list(some), size, folder / f"move-{size}"):
            moved.setdefault(Path(result["source"]).name, []).append(result)
        tell(f"states taken over; {size} processes")
    return [_figures(each, curves, moved[each.name]) for each in layouts]


def targets_of(layouts: Sequence[Layout]) -> list[tuple[Layout, list[Layout]]]:
    """Of each layout, those that take its state: the next ones, by turns over all."""
    count = len(layouts)
    strides = [1 + number * max(1, count // RESHARDED_TO) for number in range(RESHARDED_TO)]
    return [(each, [layouts[(place + stride) % count] for stride in strides]) for place, each in enumerate(layouts)]


def _figures(layout: Layout, curves: Mapping[str, Any], moved: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    alone, mine = curves[Layout().name], curves[layout.name]
    differences = [abs(one - other) / abs(other) for one, other in zip(mine["losses"], alone["losses"], strict=True)]
    logits = torch.tensor(mine["logits"])
    furthest = [float((torch.tensor(each["logits"]) - logits).abs().max()) for each in moved]
    wrong = sum(
        each["digest"] != mine["digest"] or difference > LOGITS_TOLERANCE
        for each, difference in zip(moved, furthest, strict=True)
    )
    return {
        "name": layout.name,
        "world_size": layout.world_size,
        "max_relative_difference": max(differences),
        "last_loss": mine["losses"][-1],
        "resharded_to": [each["layout"] for each in moved],
        "resharded_wrong": wrong,
        "logits_max_difference": max(furthest),
    }


def run(jobs: Sequence[Job], world_size: int, folder: Path) -> list[dict[str, Any]]:
    """All `jobs` in one set of processes; what each found."""
    folder.mkdir(parents=True)
    if world_size == 1:
        threads = torch.get_num_threads()
        found = [_job(job, 0) for job in jobs]
        torch.set_num_threads(threads)
        return found
    torch.multiprocessing.spawn(_worker, (world_size, list(jobs), str(folder)), nprocs=world_size)  # type: ignore[no-untyped-call]
    return [json.loads((folder / f"{number}.json").read_bytes()) for number in range(len(jobs))]


def _worker(rank: int, world_size: int, jobs: Sequence[Job], folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    for number, job in enumerate(jobs):
        found = _job(job, rank)
        if rank == world_size - 1:  # which has the last stage
            (Path(folder) / f"{number}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def _job(job: Job, rank: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    engine = make_engine(job.layout)
    if job.source is not None:
        given = flat(engine.state())
        Checkpoints(ObjectStore(job.source), _RUN).load_into(given)
        engine.load(parts(given))
    losses = [train_step(engine, number) for number in range(job.steps)]
    Checkpoints(ObjectStore(job.state), _RUN).save(job.steps, flat(engine.state()), {})
    whole, content = engine.whole_state(), Path(f"{job.state}.safetensors")
    if rank == 0:
        tensors = {name: tensor.contiguous() for name, tensor in flat(whole).items()}
        safetensors.torch.save_file(tensors, content)
    if dist.is_initialized():
        dist.barrier()
    logits = engine.outputs(_batch(-1)[:, :-1])
    return {
        "layout": job.layout.name,
        "source": job.source,
        "losses": losses,
        "logits": logits[:, -1].tolist() if len(logits) else [],
        "digest": digest_file(content),
    }


def make_engine(
    layout: Layout,
    memory: Memory = Memory(),  # noqa: B008 - frozen
    optimization: Optimization = Optimization(),  # noqa: B008 - frozen
) -> Engine:
    """The engine of a model of 1.5 M parameters, the same whatever the layout."""
    torch.manual_seed(0)
    inputs = TextInputs(_VOCABULARY, _LENGTH)
    module = load_module(_PIPELINE, "model", "model.build").build(inputs, _OPTIONS)
    plan: ParallelPlan = load_module(_PIPELINE, "plan", "model.plan").plan(inputs, _OPTIONS)
    check(layout, plan, _DEPTH, _BATCH, optimization.accumulation)
    return Engine(module, plan, loss, layout, torch.device("cpu"), memory, optimization)


def train_step(engine: Engine, number: int) -> float:
    """One step on batch `number`; its mean loss over all workers."""
    batch = _batch(number)
    begin, end = (_BATCH * (engine.data_rank + side) // engine.data_world for side in (0, 1))
    mine = batch[begin:end]
    rate = _LEARNING_RATE * min(1.0, (number + 1) / _WARM_UP)
    return engine.step(mine[:, :-1], mine[:, 1:], rate, _BATCH).loss


def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next byte."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _batch(number: int) -> torch.Tensor:
    """int64 [rows, length + 1], the same on every worker."""
    generator = torch.Generator().manual_seed(number + 1)
    batch = torch.randint(0, 64, (_BATCH, _LENGTH + 1), generator=generator)
    batch[:, 1::2] = batch[:, :-1:2]
    return batch
