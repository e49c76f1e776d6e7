"""A benchmark made of parts: what is measured anew, what is kept, and what the table says of it."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from benchmarks.parts import Benchmark, Tell

GOALS = {
    "lost": ("0", lambda value: value == 0),
    "recovery.p99_seconds": ("under 5", lambda value: value < 5),
    "absent": ("1", lambda value: value == 1),
}


def benchmark(folder: Path, **figures: dict[str, Any]) -> Benchmark:
    def part(found: dict[str, Any]) -> Any:
        def measure(tell: Tell) -> dict[str, Any]:
            return found

        return measure

    parts = {name: part(found) for name, found in figures.items()}
    return Benchmark("trial", parts, GOALS, {"refused": "attacks"}, folder=folder)


def shown(trial: Benchmark, figures: dict[str, Any]) -> list[list[str]]:
    console = Console(file=StringIO(), width=120)
    console.print(trial.table(figures))
    assert isinstance(console.file, StringIO)
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_a_part_measured_alone_leaves_the_others_figures_and_their_dates(tmp_path: Path) -> None:
    old = benchmark(tmp_path, storm={"lost": 3}, stack={"recovery": {"p99_seconds": 4.0}})
    old.measure(["storm", "stack"], lambda _: None)
    before = json.loads(old.path.read_bytes())
    figures = benchmark(tmp_path, storm={"lost": 0}, stack={}).measure(["storm"], lambda _: None)
    after = json.loads(old.path.read_bytes())
    assert figures == {"lost": 0, "recovery": {"p99_seconds": 4.0}}
    assert (after["lost"], after["recovery"]) == (0, {"p99_seconds": 4.0})
    assert after["measured"]["stack"] == before["measured"]["stack"]
    assert after["measured"]["storm"]["date"] > before["measured"]["storm"]["date"]
    assert {"hardware", "date", "commit"} < set(after)


def test_what_was_measured_before_a_failure_is_kept(tmp_path: Path) -> None:
    trial = benchmark(tmp_path, storm={"lost": 1})
    with pytest.raises(KeyError):
        trial.measure(["storm", "no such part"], lambda _: None)
    assert json.loads(trial.path.read_bytes())["lost"] == 1


def test_the_table_has_the_goals_whose_figures_are_there(tmp_path: Path) -> None:
    trial = benchmark(tmp_path)
    rows = shown(trial, {"lost": 2, "recovery": {"p99_seconds": 4.5}, "attacks": 1000, "refused": 1000})
    assert rows == [
        ["lost", "2", "0", "no"],
        ["recovery.p99_seconds", "4.500", "under 5", "yes"],
        ["refused", "1,000 of 1,000", "all", "yes"],
    ]
    assert shown(trial, {"attacks": 3, "refused": 2}) == [["refused", "2 of 3", "all", "no"]]


def test_a_part_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=r"no part wind; the parts are storm"):
        benchmark(tmp_path, storm={}).run(["wind"])
