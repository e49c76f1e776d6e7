"""What runs of a stack and what answers. Asks only; changes nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from infra.local import parts
from infra.local.layout import Layout
from infra.local.parts import Part
from infra.local.ports import Holder, holder
from infra.local.processes import Record, members, read_record
from millrace.settings import Settings

NAMES = ("prefect", "worker", "mlflow", "ray", "serve", "reconciler")


@dataclass(frozen=True)
class PartStatus:
    """One part as it is now. `running`: its process lives; `ready`: it answers as it should."""

    name: str
    running: bool
    ready: bool
    address: str
    pid: int | None
    detail: str


@dataclass(frozen=True)
class StackStatus:
    """All parts as they are now, in the order prefect, worker, mlflow, ray, serve, reconciler."""

    parts: tuple[PartStatus, ...]

    @property
    def ready(self) -> bool:
        return all(part.ready for part in self.parts)

    @property
    def running(self) -> bool:
        """Whether any process of the stack lives."""
        return any(part.running for part in self.parts)

    def __getitem__(self, name: str) -> PartStatus:
        return next(part for part in self.parts if part.name == name)

    def as_dict(self) -> dict[str, Any]:
        return {"ready": self.ready, "parts": {part.name: asdict(part) for part in self.parts}}


def build(settings: Settings, layout: Layout, name: str) -> Part:
    """Part `name` as it was started last (its ports, its start time)."""
    if name == "prefect":
        return parts.prefect(settings, layout)
    if name == "worker":
        record = read_record(layout.run, "worker")
        return parts.worker(settings, layout, record.created if record else None)
    if name == "reconciler":
        record = read_record(layout.run, "reconciler")
        return parts.reconciler(settings, layout, record.created if record else None)
    if name == "mlflow":
        return parts.mlflow(settings, layout)
    if name == "ray":
        return parts.ray(settings, layout, layout.read_ports())
    return parts.serve(settings, layout)


def part_status(settings: Settings, layout: Layout, name: str) -> PartStatus:
    """One part, asked now."""
    part = build(settings, layout, name)
    if not part.local:
        answers = part.ready()
        return PartStatus(name, answers, answers, part.address, None, "on another machine: not started from here")
    if name == "serve":
        return _serve_status(layout, part)
    record = read_record(layout.run, name)
    if record is None or not record.alive:
        return PartStatus(name, False, False, part.address, None, _why_not(part, record))
    ready = part.ready()
    detail = f"log: {layout.log(name)}" if ready else f"does not answer; log: {layout.log(name)}"
    if name == "ray" and ready and (ports := layout.read_ports()) is not None:
        detail = f"dashboard: http://127.0.0.1:{ports.dashboard}; {detail}"
    return PartStatus(name, True, ready, part.address, record.pid, detail)


def _serve_status(layout: Layout, part: Part) -> PartStatus:
    """Serve has no process of its own: HAProxy in Ray's session listens."""
    # At a reload another HAProxy takes over: one that was seen listening may be gone when it is looked at.
    listening = _our_listener(layout, part) or _our_listener(layout, part)
    if listening is None:
        return PartStatus("serve", False, False, part.address, None, _why_not(part, None))
    ready = part.ready()
    detail = f"log: {layout.log('serve')}" if ready else f"does not answer; log: {layout.log('serve')}"
    return PartStatus("serve", True, ready, part.address, listening.pid, detail)


def _our_listener(layout: Layout, part: Part) -> Holder | None:
    found = _listening(part)
    ours = members(layout.state, "ray", read_record(layout.run, "ray")) if found else []
    return found if found is not None and found.pid in {process.pid for process in ours} else None


def _listening(part: Part) -> Holder | None:
    return holder(part.listen[1]) if part.listen else None


def _why_not(part: Part, record: Record | None) -> str:
    if (found := _listening(part)) is not None:
        return f"not running; its port is held by {found}"
    return "not running" if record is None else f"ended without being asked (was process {record.pid})"


def stack_status(settings: Settings, layout: Layout) -> StackStatus:
    """All parts, asked side by side."""
    with ThreadPoolExecutor(len(NAMES)) as pool:
        return StackStatus(tuple(pool.map(lambda name: part_status(settings, layout, name), NAMES)))
