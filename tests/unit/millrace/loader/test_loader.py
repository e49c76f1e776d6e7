"""Whatever happens to the ranks, the global batches are those of a run that nothing happened to."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import ArtifactError, ConfigError, ConflictError, DigestError, ServiceError, SettingsError
from millrace.loader import Cache, Loader, Policy, StoreSource
from millrace.loader.share import share
from millrace.shards import SampleSet
from millrace.storage import ObjectStore
from tests.faulty_source import FaultySource

Made = tuple[ObjectStore, SampleSet]
QUICK = Policy(backoff_seconds=0.001, hedge_seconds=0.05, deadline_seconds=20)


def loader(made: Made, rank: int = 0, world: int = 1, **options: object) -> Loader:
    chosen = {"batch_size": 24, "seed": 5, "window": 3, "epochs": 2} | options
    return Loader(made[1], StoreSource(made[0]), rank=rank, world_size=world, **chosen)


def flat(lists: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def indices(of: Loader, limit: int | None = None) -> list[list[int]]:
    found = []
    if limit == 0:
        return found
    with of:
        for batch in of:
            found.append(batch.tensors["index"].tolist())
            if len(found) == limit:
                break
    return found


@given(batch=st.integers(1, 200), world=st.integers(1, 40))
def test_shares_are_a_partition(batch: int, world: int) -> None:
    parts = [list(range(batch)[share(batch, rank, world)]) for rank in range(world)]
    assert flat(parts) == list(range(batch))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_each_epoch_has_every_sample_and_its_own_order(made: Made) -> None:
    of = loader(made)
    batches = indices(of)
    first, second = (batches[: of.steps_per_epoch], batches[of.steps_per_epoch :])
    assert len(first) == len(second) == of.steps_per_epoch == 9
    # 200 samples in batches of 24: the ninth has 8 new ones and the 16 before them.
    counts = Counter(flat(first))
    assert sorted(counts) == list(range(200))
    assert Counter(counts.values()) == {1: 184, 2: 16}
    assert first != second


def test_dropping_leaves_out_the_short_batch(made: Made) -> None:
    batches = indices(loader(made, last="drop", epochs=1))
    assert [len(batch) for batch in batches] == [24] * 8
    assert len(set(flat(batches))) == 192


def test_a_batch_holds_the_rows_of_its_samples(made: Made) -> None:
    for batch in loader(made, epochs=1):
        assert batch.tensors["x"].dtype == torch.float32
        assert (batch.tensors["x"] == batch.tensors["index"][:, None]).all()


@given(
    lives=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=5),
)
def test_kills_and_resizes_change_nothing(made: Made, lives: list[tuple[int, int, int]]) -> None:
    """Each life has a world size; it saves after some steps and dies after some more, which are done again."""
    whole = indices(loader(made))
    state, seen = None, []
    for world, saved, lost in [*lives, (2, 1000, 0)]:
        ranks = [loader(made, rank, world) for rank in range(world)]
        parts, states = [], []
        for rank in ranks:
            if state is not None:
                rank.load_state_dict(json.loads(json.dumps(state)))
            parts.append(indices(rank, min(saved, 1000)))
            states.append(rank.state_dict())
            indices(rank, lost)
        assert all(other == states[0] for other in states)
        seen += [flat(batch) for batch in zip(*parts, strict=True)]
        state = states[0]
    assert seen == whole


def test_the_state_is_small_and_one_of_other_data_is_refused(made: Made, make: Callable[..., Made]) -> None:
    of = loader(made)
    indices(of, 3)
    state = of.state_dict()
    assert len(json.dumps(state)) < 4096
    assert (state["step"], state["sample"]) == (3, 72)
    for other in (loader(make(100)), loader(made, seed=6), loader(made, window=2), loader(made, batch_size=25)):
        with pytest.raises(ConflictError, match="differs"):
            other.load_state_dict(state)
    for wrong in ({"sample": 200}, {"sample": 1}, {"epoch": -1}, {"step": "3"}):
        with pytest.raises(ConflictError, match="outside"):
            loader(made).load_state_dict(state | wrong)


def test_a_rank_without_rows_is_refused(made: Made) -> None:
    with pytest.raises(ConfigError, match="shared out"):
        loader(made, rank=0, world=25)


def test_a_store_that_fails_half_of_the_time_loses_nothing(made: Made, tmp_path: Path) -> None:
    faults = ["reset", "503", "short", "corrupt", "ok"]
    source = FaultySource(made[0], lambda key, count: faults[(hash(key) + count) % 5] if count < 4 else "ok")
    of = Loader(made[1], source, batch_size=24, seed=5, window=3, epochs=2, cache=Cache(tmp_path, 10**6), policy=QUICK)
    assert indices(of) == indices(loader(made))
    assert of.report()["retries"] > 0


def test_a_read_that_stalls_is_hedged(made: Made, tmp_path: Path) -> None:
    source = FaultySource(made[0], lambda key, count: "stall" if count == 0 else "ok")
    of = Loader(made[1], source, batch_size=24, seed=5, window=3, epochs=2, cache=Cache(tmp_path, 10**6), policy=QUICK)
    try:
        assert indices(of) == indices(loader(made))
    finally:
        source.released.set()
    assert of.report()["hedges"] >= len(made[1].shards)


@pytest.mark.parametrize(
    ("fault", "error", "match"),
    [
        ("missing", ArtifactError, "does not exist"),
        ("corrupt", DigestError, "is not the shard that was committed"),
        ("reset", ServiceError, "connection reset by peer"),
        ("short", ServiceError, r"of \d+ bytes came"),
        ("stall", ServiceError, "no answer"),
    ],
)
def test_what_stays_wrong_is_named_and_nothing_is_lost(
    made: Made, tmp_path: Path, fault: str, error: type[Exception], match: str
) -> None:
    broken = threading.Event()
    key = loader(made)._plan.shard_at(7).key
    source = FaultySource(made[0], lambda asked, count: fault if asked == key and not broken.is_set() else "ok")
    policy = Policy(attempts=3, backoff_seconds=0.001, hedge_seconds=0.02, deadline_seconds=0.5)
    of = Loader(made[1], source, batch_size=24, seed=5, window=3, epochs=2, cache=Cache(tmp_path, 10**6), policy=policy)
    seen = []
    with pytest.raises(error, match=match) as raised:
        seen.extend(batch.tensors["index"].tolist() for batch in of)
    assert key in str(raised.value)
    assert "next:" in str(raised.value)
    broken.set()
    source.released.set()
    rest = Loader(made[1], source, batch_size=24, seed=5, window=3, epochs=2, cache=Cache(tmp_path, 10**6))
    rest.load_state_dict(of.state_dict())
    whole = indices(loader(made))
    assert indices(rest) == whole[of.position.step :]
    assert of.position.step > 0


def test_a_file_that_changed_on_this_machine_is_found(make: Callable[..., Made]) -> None:
    made = make()
    path = made[0].local_path(made[1].shards[4].key)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DigestError, match=made[1].shards[4].key):
        indices(loader(made))
    path.unlink()
    with pytest.raises(ArtifactError, match="does not exist"):
        indices(loader(made))


def test_a_damaged_file_in_the_cache_is_fetched_again(made: Made, tmp_path: Path) -> None:
    def run() -> tuple[list[list[int]], FaultySource]:
        source = FaultySource(made[0])
        cache, policy = Cache(tmp_path, 10**6), Policy(hedge_seconds=60)  # a second read beside a slow one counts too
        return indices(
            Loader(made[1], source, batch_size=24, seed=5, window=3, epochs=2, cache=cache, policy=policy)
        ), source

    first, source = run()
    assert sum(source.reads.values()) == len(made[1].shards)
    for path in list(tmp_path.glob("*.shard"))[:2]:
        path.write_bytes(path.read_bytes()[:-9])
    again, source = run()
    assert again == first
    assert sum(source.reads.values()) == 2


def test_the_cache_keeps_its_bound(made: Made, tmp_path: Path) -> None:
    most = max(shard.num_bytes for shard in made[1].shards) * 12
    cache, largest = Cache(tmp_path, most), 0
    for _ in Loader(made[1], FaultySource(made[0]), batch_size=24, seed=5, window=3, epochs=3, cache=cache):
        largest = max(largest, cache.num_bytes)
    assert 0 < largest <= most
    with pytest.raises(SettingsError, match="too small"):
        Loader(made[1], FaultySource(made[0]), batch_size=24, seed=5, window=5, cache=cache)


def test_no_thread_stays_behind(made: Made) -> None:
    before = threading.active_count()
    of = loader(made)
    indices(of, 2)
    from tests.waiting import until

    until(lambda: threading.active_count() <= before, "the end of the threads", seconds=10, every=0.01)
