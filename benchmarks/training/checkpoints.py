"""Saves against a hostile store, none of which may be seen torn; and what asynchronous saves take from training."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
import uuid
from typing import Any

import torch

from benchmarks.parts import Tell
from benchmarks.training.hostile_store import HostileStore, Killed, at_random
from millrace.errors import FencedError, MillraceError
from millrace.retries import Retries
from millrace.storage import ObjectStore
from ray_jobs.train.checkpoints import interval
from ray_jobs.train.checkpoints.checkpoints import Checkpoints
from ray_jobs.train.checkpoints.state import Tensors, capture

SAVES = 10_000
_FAULT_SHARE = 0.08
_NUM_TENSORS, _NUMBERS = 3, 64
_WIDTH, _BATCH, _STEPS, _EVERY, _ROUNDS = 512, 256, 120, 12, 5
_AT_ONCE = Retries(attempts=6, first_seconds=0.0)


def measure(tell: Tell) -> dict[str, Any]:
    """All figures, under `checkpoints`."""
    found = hostile(SAVES, tell)
    tell(f"{found['saves']:,} saves, {found['torn']} torn, {found['killed']:,} killed")
    loss = async_loss()
    tell(f"asynchronous saves take {loss['async_loss']:.5f} of the training's time")
    return {"checkpoints": found | loss}


def hostile(saves: int, tell: Tell, seed: int = 7) -> dict[str, Any]:
    """Save so often, with faults; after each save a clean reader loads the newest, and compares it with what was saved.

    A writer that dies is followed by a new one, while now and then the old one goes on: it must stay out of sight.
    """
    rng = random.Random(seed)
    url, prefix = f"memory://{uuid.uuid4().hex}", "run/checkpoints"
    store = HostileStore(url, at_random(rng, _FAULT_SHARE))
    counts = {"saves": 0, "torn": 0, "stale": 0, "killed": 0, "refused": 0, "committed": 0}
    token = _Token()
    writer, stale = _writer(store, prefix, token), None
    acknowledged = -1
    for step in range(saves):
        counts["saves"] += 1
        if stale is not None and rng.random() < 0.2:
            _try(stale, step, f"stale-{step}", {})
        mark = f"own-{step}"
        if _try(writer, step, mark, counts):
            acknowledged = step
            counts["committed"] += 1
        else:
            stale, writer = writer, _writer(store, prefix, token)
        state = _state(0.0)
        try:
            found = Checkpoints(ObjectStore(url), prefix, retries=_AT_ONCE).newest()
            if found is not None:
                reader = Checkpoints(ObjectStore(url), prefix, retries=_AT_ONCE)
                reader._load(state, found.artifact)
                expected = _state(_value(found.extra["mark"]))
                whole = all(torch.equal(state[name], expected[name]) for name in expected)
                counts["torn"] += not whole
                counts["stale"] += found.step < acknowledged or (
                    acknowledged >= 0 and found.extra["mark"].startswith("stale") and found.step <= acknowledged
                )
            elif acknowledged >= 0:
                counts["stale"] += 1
        except MillraceError:
            counts["torn"] += 1
        if step % 1_000 == 999:
            tell(f"{step + 1:,} saves")
    return counts | {"faults": dict(sorted(store.struck.items()))}


class _Token:
    """Who may publish. One that was replaced still passes if it had claimed: it was held up after asking."""

    holder: Checkpoints | None = None

    def prove(self, writer: Checkpoints) -> None:
        """That `writer` may publish, as far as it could know."""
        if writer is not self.holder and writer._generation is None:
            raise FencedError("another run holds the token")


def _writer(store: ObjectStore, prefix: str, token: _Token) -> Checkpoints:
    writer = Checkpoints(store, prefix, keep=2, retries=_AT_ONCE, prove=lambda: token.prove(writer))
    token.holder = writer
    return writer


def _try(writer: Checkpoints, step: int, mark: str, counts: dict[str, int]) -> bool:
    try:
        writer.save(step, _state(_value(mark)), {"mark": mark})
    except Killed:
        counts["killed"] = counts.get("killed", 0) + 1
        return False
    except MillraceError:
        counts["refused"] = counts.get("refused", 0) + 1
        return False
    return True


def _value(mark: str) -> float:
    kind, _, step = mark.partition("-")
    return float(step) + (0.5 if kind == "stale" else 0.0)


def _state(value: float) -> Tensors:
    return {f"t{index}": torch.full((_NUMBERS,), value + 1e5 * index) for index in range(_NUM_TENSORS)}


def async_loss() -> dict[str, Any]:
    """What one asynchronous save takes from a real training, over the interval that Young and Daly give.

    A loss below 1 % cannot be seen in a round of seconds, so rounds save far more often than anybody would, and the
    time lost is counted per save.
    """
    with tempfile.TemporaryDirectory() as folder:
        module = torch.nn.Sequential(*[torch.nn.Linear(_WIDTH, _WIDTH) for _ in range(4)])
        optimizer = torch.optim.AdamW(module.parameters())
        checkpoints = Checkpoints(ObjectStore(folder), "run/checkpoints")
        plain, saving, blocking, totals = [], [], [], []
        num_bytes = sum(t.numel() * t.element_size() for t in capture(module, optimizer).values())
        step = 0
        for round_number in range(_ROUNDS + 1):
            base = _round(module, optimizer)
            began = time.perf_counter()
            for index in range(_STEPS):
                _step(module, optimizer)
                step += 1
                if index % _EVERY == 0:
                    asked = time.perf_counter()
                    checkpoints.save_async(step, capture(module, optimizer), {})
                    blocking.append(time.perf_counter() - asked)
            checkpoints.wait()
            with_saves = time.perf_counter() - began
            asked = time.perf_counter()
            checkpoints.save(step + 1_000_000, capture(module, optimizer), {})
            totals.append(time.perf_counter() - asked)
            if round_number:  # the first warms up
                plain.append(base)
                saving.append(with_saves)
            checkpoints.load_into(capture(module, optimizer))
        checkpoints.close()
    lost = statistics.median(max(0.0, b - a) for a, b in zip(plain, saving, strict=True)) / (_STEPS / _EVERY)
    total, step_seconds = statistics.median(totals), statistics.median(plain) / _STEPS
    every = interval.every_steps(lost or statistics.median(blocking), total, step_seconds, interval.FailureRate())
    return {
        "async_loss": lost / (every * step_seconds),
        "lost_seconds_per_save": lost,
        "blocking_milliseconds": statistics.median(blocking) * 1e3,
        "interval_seconds": every * step_seconds,
        "save_mb_per_second": num_bytes / total / 1e6,
        "state_mb": num_bytes / 1e6,
    }


def _round(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> float:
    began = time.perf_counter()
    for _ in range(_STEPS):
        _step(module, optimizer)
    return time.perf_counter() - began


def _step(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    module(torch.randn(_BATCH, _WIDTH)).square().mean().backward()
    optimizer.step()
