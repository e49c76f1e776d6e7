"""Where the time went is kept, and each version replaces the one before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from millrace.goodput import Attempt, Worker
from millrace.storage import ObjectStore
from ray_jobs.train.accounts import Accounts


def test_the_newest_of_each_attempt_is_read(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    accounts = Accounts(store, "goodput/tiny/run")
    assert accounts.read() == []
    first = Attempt(0, 2, 10.0, 20.0, {1: Worker(19.0, {"compute": 5.0}, {3: {"compute": 1.0}})}, 0)
    second = Attempt(1, 1, 30.0, 40.0, {}, None, "failed")
    accounts.keep(first)
    accounts.keep(second)
    for ended in (21.0, 22.0):
        first = replace(first, ended=ended)
        accounts.keep(first)
    assert Accounts(store, "goodput/tiny/run").read() == [first, second]
    assert len(store.names("goodput/tiny/run")) == 2, "older versions are gone"


def test_a_version_left_by_a_kill_does_not_count(tmp_path: Path) -> None:
    """Killed between the new version and the removal of the old one."""
    store = ObjectStore(str(tmp_path))
    old, new = Attempt(0, 1, 10.0, 20.0, {}), Attempt(0, 1, 10.0, 25.0, {})
    for version, attempt in enumerate((old, new), 1):
        store.publish(f"goodput/tiny/run/a0000-v{version:06d}", {}, summary=attempt.as_dict())
    assert Accounts(store, "goodput/tiny/run").read() == [new]
