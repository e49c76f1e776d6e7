"""A log that is followed while it is written gives each record once, whenever its segments are closed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.errors import DataError
from millrace.inference_log import FAILURES_HEADER, failure_record, failures_writer
from millrace.log_tables import FAILURES, to_table
from millrace.log_tail import LogTail
from millrace.log_writer import LogWriter

AT = datetime(2024, 1, 1, tzinfo=UTC)


def append(writer: LogWriter, name: str) -> None:
    writer.append(failure_record(name, "1", AT, 500, ValueError("secret")))


def tail_of(folder: Path, since_seconds: float = 60.0) -> LogTail:
    return LogTail(folder / FAILURES, "failed_at", ("version",), since_seconds)


@pytest.fixture
def follow() -> Iterator[Callable[..., LogTail]]:
    tails: list[LogTail] = []

    def start(*given: Any, **named: Any) -> LogTail:
        tails.append(tail_of(*given, **named))
        return tails[-1]

    yield start
    for tail in tails:
        tail.close()


def names(tail: LogTail) -> list[str]:
    return [record["request_id"] for record in tail.new()]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["append", "other", "look", "rotate"]), max_size=30))
def test_each_record_comes_once_however_segments_are_closed(steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        writers = {"append": failures_writer(folder, 1e9), "other": failures_writer(folder, 1e9)}
        tail, written, found = tail_of(folder), [], []
        for number, step in enumerate(steps):
            if step in writers:
                append(writers[step], f"r{number}")
                written.append(f"r{number}")
            elif step == "rotate":
                writers["append"].rotate()
            else:
                found += names(tail)
        for writer in writers.values():
            writer.close()
        found += names(tail) + names(tail)
        tail.close()
        assert sorted(found) == sorted(written)


def test_a_record_has_its_time_in_microseconds_from_lines_and_from_parquet(
    tmp_path: Path, follow: Callable[..., LogTail]
) -> None:
    writer = failures_writer(tmp_path, 1e9)
    append(writer, "a")
    (from_lines,) = list(follow(tmp_path).new())
    writer.close()
    (from_parquet,) = list(follow(tmp_path).new())
    moment = round(AT.timestamp() * 1_000_000)
    assert (from_lines["failed_at"], from_lines["version"]) == (moment, "1")
    assert (from_parquet["failed_at"], from_parquet["version"]) == (moment, "1")


def test_a_torn_line_is_read_once_it_is_whole(tmp_path: Path, follow: Callable[..., LogTail]) -> None:
    (tmp_path / FAILURES).mkdir()
    path, tail = tmp_path / FAILURES / "s.jsonl", follow(tmp_path)
    path.write_bytes(b'{"kind":"failures"}\n{"request_id":"a"}\n{"requ')
    assert names(tail) == ["a"]
    with path.open("ab") as file:
        file.write(b'est_id":"b"}\n')
    assert names(tail) == ["b"]


def test_closed_segments_from_long_ago_are_not_opened(tmp_path: Path, follow: Callable[..., LogTail]) -> None:
    writer = failures_writer(tmp_path, 1e9)
    append(writer, "old")
    writer.close()
    (path,) = (tmp_path / FAILURES).glob("*.parquet")
    os.utime(path, (time.time() - 100, time.time() - 100))
    assert names(follow(tmp_path, since_seconds=50)) == []
    assert names(follow(tmp_path, since_seconds=1000)) == ["old"]


def test_a_damaged_line_is_told_and_what_follows_is_read(tmp_path: Path, follow: Callable[..., LogTail]) -> None:
    (tmp_path / FAILURES).mkdir()
    path, tail = tmp_path / FAILURES / "s.jsonl", follow(tmp_path)
    path.write_bytes(b'{"kind":"failures"}\nno json\n')
    with pytest.raises(DataError, match="damaged"):
        names(tail)
    with path.open("ab") as file:
        file.write(b'{"request_id":"a"}\n')
    assert names(tail) == ["a"]


def test_a_failure_keeps_the_class_of_its_error_and_no_text() -> None:
    record = failure_record("a", "1", AT, 500, ValueError("the secret"))
    assert record["error"] == "ValueError"
    assert "secret" not in str(record)
    assert to_table(FAILURES_HEADER, b"").column_names == list(record)
