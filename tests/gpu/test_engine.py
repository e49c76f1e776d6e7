"""Training steps on a GPU: precision, compilation and recomputation train the same model, in the memory they should."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.gpu.steps import Case, run_case

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")

ROWS = 4


@pytest.fixture(scope="module")
def cases() -> dict[str, dict[str, Any]]:
    wanted = (
        Case("25M", ROWS, compile=False, precision="fp32"),
        Case("25M", ROWS, compile=False),
        Case("25M", ROWS),
        Case("25M", ROWS, "selective"),
        Case("25M", ROWS, "full"),
        Case("25M", ROWS, precision="fp16"),
    )
    return {case.name: run_case(case, peak=1e15, sheet=None) for case in wanted}


def test_all_learn_the_same(cases: dict[str, dict[str, Any]]) -> None:
    exact = cases[Case("25M", ROWS, compile=False, precision="fp32").name]
    for name, found in cases.items():
        assert found["first_loss"] == pytest.approx(exact["first_loss"], rel=0.01), name
        assert found["last_loss"] < 0.9 * found["first_loss"], name
        assert found["last_loss"] == pytest.approx(exact["last_loss"], rel=0.1), name


def test_what_is_recomputed_takes_no_memory(cases: dict[str, dict[str, Any]]) -> None:
    none, selective, full = (
        cases[Case("25M", ROWS, kind).name]["peak_bytes"] for kind in ("none", "selective", "full")
    )
    assert full < selective < none


def test_bf16_takes_less_time_and_memory_than_fp32(cases: dict[str, dict[str, Any]]) -> None:
    exact, half = (cases[Case("25M", ROWS, compile=False, precision=each).name] for each in ("fp32", "bf16"))
    assert half["step_seconds"] < exact["step_seconds"]
    assert half["peak_bytes"] < exact["peak_bytes"]
