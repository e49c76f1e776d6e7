"""Schedules of kills, resizes and restarts on the loader: what the ranks take beside what an undisturbed run takes."""

from __future__ import annotations

import json
import multiprocessing
import random
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from millrace.loader import Cache, Loader, Policy
from millrace.shards import Column, SampleSet, ShardWriter, publish
from millrace.storage import ObjectStore
from tests.faulty_source import FaultySource
from tests.waiting import until

_POLICY = Policy(backoff_seconds=0.002, hedge_seconds=0.5, deadline_seconds=60)


@dataclass(frozen=True)
class Case:
    """A set, and how it is read."""

    folder: Path
    store: ObjectStore
    samples: SampleSet
    batch_size: int
    seed: int
    window: int
    epochs: int = 2

    @classmethod
    def of(cls, folder: Path, chance: random.Random) -> Case:
        """A small set of random sizes."""
        store = ObjectStore(str(folder / "objects"))
        sizes = chance.randint(40, 260), chance.randint(5, 40)
        with ShardWriter(folder / "shards", [Column("index", "<i8")], samples_per_shard=sizes[1]) as writer:
            writer.write({"index": np.arange(sizes[0])})
        samples = publish(store, "set", writer.files)
        return cls(folder, store, samples, chance.randint(8, 32), chance.randrange(2**31), chance.randint(1, 5))

    def loader(self, rank: int, world: int) -> Loader:
        # One read in eight fails, by chance of the key and its count: the retries are part of the schedule.
        source = FaultySource(self.store, lambda key, count: "reset" if (hash(key) + count) % 8 == 0 else "ok")
        cache = Cache(self.folder / "cache", 1 << 26)
        return Loader(
            self.samples,
            source,
            batch_size=self.batch_size,
            seed=self.seed,
            window=self.window,
            epochs=self.epochs,
            rank=rank,
            world_size=world,
            cache=cache,
            policy=_POLICY,
        )

    def undisturbed(self) -> list[list[int]]:
        with self.loader(0, 1) as loader:
            return [batch.tensors["index"].tolist() for batch in loader]


def violations(case: Case, chance: random.Random) -> int:
    """Steps at which a disturbed run, played in this process, took other samples than an undisturbed one."""
    whole, taken, state = case.undisturbed(), [], None
    while len(taken) < len(whole):
        world = chance.randint(1, 8)
        kept = chance.randint(0, max(1, len(whole) // 2))
        lost = chance.randint(0, 4)
        parts: list[list[list[int]]] = []
        states: list[dict[str, Any]] = []
        for rank in range(world):
            with case.loader(rank, world) as loader:
                if state is not None:
                    loader.load_state_dict(json.loads(state))
                part, saved, batches = [], loader.state_dict(), iter(loader)
                for number, batch in enumerate(batches, 1):
                    if number <= kept:
                        part.append(batch.tensors["index"].tolist())
                        saved = loader.state_dict()
                    if number >= kept + lost:
                        break  # it dies here; what it took since it saved is taken again
            parts.append(part[:kept])
            states.append(saved)
        if any(other != states[0] for other in states):
            return len(whole)
        taken += [list(chain.from_iterable(rows)) for rows in zip(*parts, strict=True)]
        state = json.dumps(states[0])
    return sum(a != b for a, b in zip(whole, taken, strict=True))


def real_violations(case: Case, chance: random.Random, kills: int = 3) -> int:
    """The same with real processes, all of which are killed (SIGKILL) `kills` times amid their work."""
    whole = case.undisturbed()
    context = multiprocessing.get_context("fork")
    starts: list[tuple[int, int]] = []
    for life in range(kills + 1):
        world, begins = chance.randint(1, 8), _saved_step(case)
        starts.append((world, begins))
        barrier = context.Barrier(world)
        ranks = [
            context.Process(target=_train, args=(case, rank, world, life, barrier), daemon=True)
            for rank in range(world)
        ]
        for process in ranks:
            process.start()
        dies_at = chance.randint(begins, len(whole)) if life < kills else None
        try:
            if dies_at is not None:
                until(
                    lambda at=dies_at, n=life, ranks=ranks: (
                        _reached(case, n) >= at or not any(p.is_alive() for p in ranks)
                    ),
                    "the step to die at",
                    every=0.002,
                )
                for process in chance.sample(ranks, len(ranks)):
                    process.kill()
        finally:
            for process in ranks:
                process.join(60)
    wrong = 0
    for life, (world, begins) in enumerate(starts):
        ends = starts[life + 1][1] if life + 1 < len(starts) else len(whole)
        parts = [_rows(case, life, rank) for rank in range(world)]
        wrong += sum(
            list(chain.from_iterable(part.get(step, [-1]) for part in parts)) != whole[step]
            for step in range(begins, ends)
        )
    return wrong


def _train(case: Case, rank: int, world: int, life: int, barrier: Any) -> None:
    loader = case.loader(rank, world)
    if (case.folder / "state").exists():
        loader.load_state_dict(json.loads((case.folder / "state").read_bytes()))
    with _path(case, life, rank).open("w") as file:
        for batch in loader:
            file.write(json.dumps([batch.step, batch.tensors["index"].tolist()]) + "\n")
            file.flush()
            barrier.wait(60)  # as an all-reduce: nobody saves before all have taken the batch
            if rank == 0 and batch.step % 3 == 0:
                partial = case.folder / "state.partial"
                partial.write_text(json.dumps(loader.state_dict()))
                partial.replace(case.folder / "state")


def _path(case: Case, life: int, rank: int) -> Path:
    return case.folder / f"rows-{life}-{rank}"


def _rows(case: Case, life: int, rank: int) -> dict[int, list[int]]:
    path = _path(case, life, rank)
    lines = path.read_text().split("\n")[:-1] if path.exists() else []  # the last line may be cut
    return dict(json.loads(line) for line in lines)


def _reached(case: Case, life: int) -> int:
    return max(_rows(case, life, 0), default=-1)


def _saved_step(case: Case) -> int:
    path = case.folder / "state"
    return int(json.loads(path.read_bytes())["step"]) if path.exists() else 0
