"""Together, replicas never answer more than the quota; what a kill costs the customer is bounded."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import ConfigError, ServiceError
from millrace.faults import FOLDER, Fault, Schedule
from millrace.quotas import (
    DAY_SECONDS,
    KEPT_DAYS,
    MOST_TAKEN,
    PARTS,
    Quotas,
    Usage,
    checked_quota,
    day_of,
    usage_folder,
    usage_of_day,
)
from millrace.settings import Settings

NOON = 20_000.5 * DAY_SECONDS
TODAY = day_of(NOON)


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


def replica(folder: Path, quota: int | None, clock: Clock | None = None) -> Quotas:
    return Quotas(Usage(folder), default=quota, clock=clock or Clock())


def asked(quotas: Quotas, times: int, customer: str = "acme") -> int:
    """How many of so many requests are answered."""
    return sum(quotas.wait_of(customer) == 0 for _ in range(times))


def test_one_replica_answers_the_quota_and_then_nothing_until_midnight(tmp_path: Path) -> None:
    clock = Clock()
    quotas = replica(tmp_path, 250, clock)
    assert asked(quotas, 300) == 250
    assert quotas.wait_of("acme") == DAY_SECONDS / 2
    clock.now = NOON + DAY_SECONDS / 2 - 0.25
    assert quotas.wait_of("acme") == 0.25
    clock.now += 0.25
    assert asked(quotas, 300) == 250
    assert Usage(tmp_path).used(TODAY) == {"acme": 250}


def test_customers_have_their_own_and_some_have_none(tmp_path: Path) -> None:
    quotas = replica(tmp_path, None)
    quotas.quotas = {"acme": 3}
    assert [asked(quotas, 10, name) for name in ("acme", "umbrella")] == [3, 10]
    assert Usage(tmp_path).used(TODAY) == {"acme": 3}, "who has no quota is not counted"
    quotas.quotas = {"acme": 5, "umbrella": 1}
    assert [asked(quotas, 10, name) for name in ("acme", "umbrella")] == [2, 1]


# What replicas go through: (which of them, how many requests it is asked), or their end and the start of another.
steps = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(st.integers(1, 60), st.sampled_from(["kill", "close"]))), max_size=60
)


@given(quota=st.integers(1, 3000), story=steps)
def test_never_more_than_the_quota_and_a_kill_costs_little(
    quota: int, story: list[tuple[int, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("usage")
    replicas = [replica(folder, quota) for _ in range(4)]
    answered = kills = 0
    for number, what in story:
        if isinstance(what, int):
            answered += asked(replicas[number], what)
            continue
        if what == "close":
            replicas[number].close()
        else:
            kills += 1
        replicas[number] = replica(folder, quota)
    assert answered <= quota
    for each in replicas:
        each.close()
    assert answered <= Usage(folder).used(TODAY).get("acme", 0) <= quota
    last = replica(folder, quota)
    answered += asked(last, quota + 1)
    lost = kills * min(MOST_TAKEN, -(-quota // PARTS))
    assert quota - lost <= answered <= quota


def test_processes_that_count_at_once_lose_nothing(tmp_path: Path) -> None:
    counts = """
import sys
from pathlib import Path
from millrace.quotas import Quotas, Usage
quotas = Quotas(Usage(Path(sys.argv[1])), default=700, clock=lambda: float(sys.argv[2]))
print(sum(quotas.wait_of("acme") == 0 for _ in range(400)))
"""
    command = [sys.executable, "-c", counts, str(tmp_path), str(NOON)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answered = [int(process.communicate()[0]) for process in processes]
    assert 700 - 3 * 7 <= sum(answered) <= 700, "each may keep what it took at the last, a hundredth at most"
    assert max(answered) <= 400


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_the_count_leaves_it_whole(moment: Any, tmp_path: Path) -> None:
    usage, faults = tmp_path / "usage", tmp_path / "faults"
    Schedule(faults, (Fault("quota.take", moment, "kill", nth=2),)).write()
    dies = """
import sys
from pathlib import Path
from millrace.quotas import Quotas, Usage
quotas = Quotas(Usage(Path(sys.argv[1])), default=1000, clock=lambda: float(sys.argv[2]))
for number in range(40):
    quotas.wait_of("acme")
    print(number + 1, flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", dies, str(usage), str(NOON)],
        env=os.environ | {FOLDER: str(faults)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    answered = int(done.stdout.split()[-1])
    assert answered == 10
    assert Usage(usage).used(TODAY) == {"acme": 10 if moment == "before" else 20}
    assert 1000 - answered - 10 <= asked(replica(usage, 1000), 1000) <= 1000 - answered


def test_what_was_not_answered_does_not_count(tmp_path: Path) -> None:
    quotas = replica(tmp_path, 5)
    assert asked(quotas, 5) == 5
    for _ in range(2):
        quotas.forgive("acme")
    assert asked(quotas, 5) == 2
    quotas.forgive("nobody")
    assert asked(quotas, 9, "nobody") == 5


def test_another_quota_holds_at_once(tmp_path: Path) -> None:
    quotas = replica(tmp_path, 5)
    assert asked(quotas, 9) == 5
    quotas.quotas = {"acme": 8}
    assert asked(quotas, 9) == 3
    quotas.quotas = {"acme": 2}
    assert asked(quotas, 9) == 0


@pytest.mark.parametrize("content", [b"", b"\0" * 20, b"many", b"\xff"])
def test_a_damaged_count_begins_anew(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / TODAY.isoformat() / "acme"
    path.parent.mkdir()
    path.write_bytes(content)
    assert asked(replica(tmp_path, 3), 9) == 3
    assert Usage(tmp_path).used(TODAY) == {"acme": 3}


def test_who_holds_the_count_and_does_not_end_holds_up_nobody(tmp_path: Path) -> None:
    quotas = replica(tmp_path, 300)
    assert asked(quotas, 3) == 3
    with (tmp_path / TODAY.isoformat() / "acme").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        with pytest.raises(ServiceError, match="acme cannot be counted"):
            quotas.usage.take("acme", TODAY, 300)
        assert time.monotonic() - began < 5
        quotas.close()
    assert asked(replica(tmp_path, 300), 400) == 297, "what could not be given back is lost"


def test_a_disk_that_refuses_lets_nobody_in_that_has_a_quota(tmp_path: Path) -> None:
    (tmp_path / "usage").write_text("a file where a folder should be")
    quotas = replica(tmp_path / "usage", 5)
    with pytest.raises(ServiceError, match="cannot be counted"):
        quotas.wait_of("acme")
    quotas.quotas, quotas.default = {}, None
    assert quotas.wait_of("acme") == 0


def test_old_counts_are_removed_when_a_day_begins(tmp_path: Path) -> None:
    usage = Usage(tmp_path)
    days = [date.fromordinal(TODAY.toordinal() - ago) for ago in (KEPT_DAYS + 5, KEPT_DAYS, 1, 0)]
    for day in days:
        usage.take("acme", day, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [day.isoformat() for day in days[1:]]


def test_the_counts_of_all_pipelines(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    assert usage_of_day(settings, TODAY) == {}
    for name in ("b", "a"):
        Usage(usage_folder(settings, name)).take("acme", TODAY, 1)
    Usage(usage_folder(settings, "c")).take("acme", date.fromordinal(TODAY.toordinal() - 1), 1)
    assert usage_of_day(settings, TODAY) == {"a": {"acme": 1}, "b": {"acme": 1}}


@pytest.mark.parametrize("quota", [0, -1, 1.5, "9", None, True])
def test_what_is_no_quota_is_refused(quota: Any) -> None:
    with pytest.raises(ConfigError, match="no quota"):
        checked_quota(quota)
