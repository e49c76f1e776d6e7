"""A benchmark made of parts, each of which can be measured alone while the others' figures are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.record import RESULTS, write
from millrace import logs
from millrace.provenance import commit

Tell = Callable[[str], None]
Part = Callable[[Tell], dict[str, Any]]

#: What a figure must be: as text for the table, and as a test.
Goal = tuple[str, Callable[[Any], bool]]

_ABOUT = ("hardware", "date", "commit")


@dataclass(frozen=True)
class Benchmark:
    """Its parts in the order in which they are measured, and what their figures should be.

    A goal's name is a figure's, with dots where it lies deeper. `all_of` names figures that must equal another one: of
    all that was tried, none got through.
    """

    name: str
    parts: Mapping[str, Part]
    goals: Mapping[str, Goal]
    all_of: Mapping[str, str] = field(default_factory=dict)
    folder: Path = RESULTS

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.json"

    def run(self, only: Sequence[str] | None) -> None:
        """Measure `only` these parts, or all; print the table.

        Raises:
            typer.BadParameter: there is no such part.
        """
        unknown = set(only or ()) - set(self.parts)
        if unknown:
            raise typer.BadParameter(f"no part {', '.join(sorted(unknown))}; the parts are {', '.join(self.parts)}")
        # What the code under test says of itself would bury the figures.
        logs.configure("ERROR")
        console = Console(stderr=True)

        def tell(text: str) -> None:
            console.print(f"  {text}", markup=False, highlight=False)

        figures = self.measure(only or list(self.parts), tell, lambda name: console.print(f"[bold]{name}[/bold]"))
        Console().print(self.table(figures))
        Console().print(f"written to {self.path}")

    def measure(self, names: Sequence[str], tell: Tell, begin: Tell = lambda _: None) -> dict[str, Any]:
        """All figures, those of the parts `names` measured anew; `measured` has each part's own date and commit."""
        known = json.loads(self.path.read_bytes()) if self.path.exists() else {}
        figures = {name: value for name, value in known.items() if name not in _ABOUT}
        measured = dict(figures.pop("measured", {}))
        for name in names:
            begin(name)
            figures |= self.parts[name](tell)
            measured[name] = {"date": datetime.now(UTC).isoformat(), "commit": commit()}
            # After each part: an hour of measurements is not lost with the last of them.
            write(self.name, {**figures, "measured": measured}, self.folder)
        return figures

    def table(self, figures: Mapping[str, Any]) -> Table:
        """Each goal whose figure is there, and whether it is met."""
        table = Table("figure", "measured", "goal", "", title=self.name, title_justify="left")
        for name, (goal, holds) in self.goals.items():
            value: Any = figures
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if value is not None:
                shown = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
                table.add_row(name, shown, goal, _yes_or_no(holds(value)))
        for name, tried in self.all_of.items():
            if name in figures:
                shown = f"{figures[name]:,} of {figures[tried]:,}"
                table.add_row(name, shown, "all", _yes_or_no(figures[name] == figures[tried]))
        return table


def _yes_or_no(holds: bool) -> str:
    return "[green]yes[/green]" if holds else "[red]no[/red]"
