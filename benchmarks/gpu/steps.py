"""Training steps of `byte_lm` on one GPU: tokens a second, model FLOPs utilisation, peak memory.

Utilisation (Chowdhery et al. 2022) counts what the model asks for, not what is recomputed, and is given of two peaks:
what a large matrix product of the same machine reaches, and what the data sheet says.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional

from benchmarks.parts import Tell
from millrace.pipeline import load_module
from millrace.texts import TextInputs
from ray_jobs.train.layout.apply import Memory
from ray_jobs.train.layout.engine import Engine
from ray_jobs.train.layout.mesh import Layout
from ray_jobs.train.speed import peak_flops

_PIPELINE = Path(__file__).parents[2] / "pipelines" / "byte_lm"
_VOCABULARY = 256
_LENGTH = 2048
_WARM, _STEPS = 4, 12
#: Dense BF16 FLOP/s by the data sheet.
_SHEET = {"H100 80GB HBM3": 989e12, "H200": 989e12, "A100": 312e12}


@dataclass(frozen=True)
class Case:
    """A size of the model, rows a step, and how its memory is used."""

    size: str
    rows: int
    recompute: Literal["none", "selective", "full"] = "none"
    compile: bool = True
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"

    @property
    def name(self) -> str:
        how = "compiled" if self.compile else "eager"
        return f"{self.size} {self.precision} {how} recompute-{self.recompute} x{self.rows}"


CASES = (
    Case("125M", 16, compile=False),
    Case("125M", 16),
    Case("125M", 16, "selective"),
    Case("125M", 16, "full"),
    Case("125M", 16, precision="fp16"),
    Case("1B", 8, "selective"),
    Case("1B", 8, "full"),
    Case("1B", 8),
)


def measure(tell: Tell) -> dict[str, Any]:
    """All cases, each on its own: one that fails has its error as its figures."""
    peak = peak_flops(torch.device("cuda"), torch.bfloat16)
    tell(f"a large matrix product in BF16: {peak / 1e12:.0f} TFLOP/s")
    sheet = next((flops for name, flops in _SHEET.items() if name in torch.cuda.get_device_name()), None)
    found: dict[str, dict[str, Any]] = {}
    for case in CASES:
        try:
            found[case.name] = run_case(case, peak, sheet)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            found[case.name] = {"error": f"{type(error).__name__}: {error}"[:400]}
        tell(f"{case.name}: {_told(found[case.name])}")
    return {"gemm_flops": peak, "cases": found, **_summary(found)}


def _summary(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    done = {name: figures for name, figures in cases.items() if "error" not in figures}
    memory = {name: figures["peak_bytes"] for name, figures in done.items()}
    full, none = (memory.get(Case("125M", 16, kind).name) for kind in ("full", "none"))
    told: dict[str, Any] = {"failed_cases": len(cases) - len(done)}
    if done:
        told["best_mfu_of_measured_peak"] = max(figures["mfu_of_measured_peak"] for figures in done.values())
    if full and none:
        told["full_recompute_memory_share"] = full / none
    return told


def run_case(case: Case, peak: float, sheet: float | None) -> dict[str, Any]:
    """Train for some steps; `peak` and `sheet` are FLOP/s that utilisation is given of."""
    with _alone():
        engine = training_engine(case.size, _LENGTH, Memory(case.precision, case.recompute, case.compile))
        plan = engine.plan
        tokens = torch.randint(0, _VOCABULARY, (case.rows, _LENGTH + 1), device="cuda")
        losses: list[float] = []

        def step() -> None:
            losses.append(engine.step(tokens[:, :-1], tokens[:, 1:], 3e-4).loss)

        began = time.perf_counter()
        step()
        first = time.perf_counter() - began
        for _ in range(_WARM):
            step()
        torch.cuda.reset_peak_memory_stats()
        seconds = statistics.median(_timed(step) for _ in range(_STEPS))
        flops = plan.flops_per_row * case.rows / seconds
        return {
            "parameters": sum(parameter.numel() for parameter in engine.parameters),
            "step_seconds": seconds,
            "first_step_seconds": first,
            "tokens_per_second": case.rows * _LENGTH / seconds,
            "mfu_of_measured_peak": flops / peak,
            "mfu_of_data_sheet": None if sheet is None else flops / sheet,
            "peak_bytes": torch.cuda.max_memory_allocated(),
            "first_loss": losses[0],
            "last_loss": losses[-1],
        }


def training_engine(size: str, length: int, memory: Memory = Memory("bf16", "none", True)) -> Engine:  # noqa: B008
    """`byte_lm` of a size on this GPU, ready to be trained."""
    torch.manual_seed(0)
    inputs, options = TextInputs(_VOCABULARY, length), {"size": size}
    with torch.device("cuda"):
        module = load_module(_PIPELINE, "model", "model.build").build(inputs, options)
    plan = load_module(_PIPELINE, "plan", "model.plan").plan(inputs, options)
    return Engine(module, plan, _loss, Layout(), torch.device("cuda"), memory)


@contextmanager
def _alone() -> Iterator[None]:
    """What a case leaves behind is no part of the next one's memory."""
    try:
        yield
    finally:
        gc.collect()
        torch._dynamo.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _timed(work: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def _loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _told(figures: dict[str, Any]) -> str:
    if "error" in figures:
        return str(figures["error"])
    return (
        f"{figures['tokens_per_second']:,.0f} tokens/s, {figures['mfu_of_measured_peak']:.0%} of the measured peak, "
        f"{figures['peak_bytes'] / 2**30:.1f} GiB"
    )
