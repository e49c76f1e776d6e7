"""What is added is in the table; the buffer is bounded; nothing that goes wrong reaches who adds."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import log_tables
from millrace.errors import DataError
from millrace.faults import FOLDER, Fault, Schedule
from millrace.traces.recorder import BLOCK, Recorder
from millrace.traces.records import STAGES, Call, Record
from millrace.traces.table import TRACES, header, read_traces, record_of, to_table
from millrace.window import Window
from tests.unit.millrace.traces.material import PARENT, block_of, continued_record, record, records
from tests.waiting import until

NEVER_FLUSHED = 1e6


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(tmp_path, "tiny", capacity=300, flush_seconds=NEVER_FLUSHED)
    yield recorder
    recorder.close()


def test_a_request_is_a_line_of_the_table(recorder: Recorder, tmp_path: Path) -> None:
    call = Call("feature store", "00f067aa0ba902b7", 10.001, 10.003, {"table": "flights"})
    first, second = record(), continued_record(request_id="r-2", calls=[call], customer="")
    recorder.add(first)
    recorder.add(second)
    recorder.flush()
    rows = read_traces(tmp_path)
    assert rows["request_id"].tolist() == ["r-1", "r-2"]
    assert rows["pipeline"].tolist() == ["tiny", "tiny"]
    assert rows["parent_span_id"].tolist() == [None, PARENT[36:52].decode()]
    assert rows["trace_id"].tolist() == [first.traceparent[3:35].decode(), PARENT[3:35].decode()]
    assert rows["span_id"].tolist() == [each.traceparent[36:52].decode() for each in (first, second)]
    assert rows[["version", "customer", "status", "rows", "batch_rows", "cached_rows"]].values.tolist() == [
        ["3", "acme", 200, 2, 16, 1],
        ["3", "", 200, 2, 16, 1],
    ]
    assert (rows[[f"{stage}_us" for stage in STAGES]] == 1000).all(axis=None)
    assert (rows["duration_us"] == 6000).all()
    assert [len(calls) for calls in rows["calls"]] == [0, 1]
    found = rows["calls"][1][0]
    assert (found["name"], found["span_id"], found["start_us"], found["duration_us"]) == (
        "feature store",
        "00f067aa0ba902b7",
        1000,
        2000,
    )
    assert found["attributes"].tolist() == [{"name": "table", "value": "flights"}]


@given(st.lists(records(), min_size=1, max_size=5))
def test_any_block_becomes_a_table(found: list[Record]) -> None:
    block = block_of(found, 1_700_000_000.0)
    table = to_table(header("tiny"), orjson.dumps(record_of(block), option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
    assert table["duration_us"].to_pylist() == block.durations.tolist()
    assert table["trace_id"].to_pylist() == [each.traceparent[3:35].decode() for each in found]
    assert table["span_id"].to_pylist() == [each.traceparent[36:52].decode() for each in found]
    parents = [None if each.parent is None else each.parent[36:52].decode() for each in found]
    assert table["parent_span_id"].to_pylist() == parents
    assert [len(calls) for calls in table["calls"].to_pylist()] == [len(each.calls) for each in found]


def test_it_becomes_parquet(recorder: Recorder, tmp_path: Path) -> None:
    for _ in range(2 * BLOCK + 3):
        recorder.add(record())
    recorder.rotate()
    (path,) = (tmp_path / TRACES).glob("*.parquet")
    assert pq.read_table(path).num_rows == 2 * BLOCK + 3
    assert not list((tmp_path / TRACES).glob("*.jsonl"))
    assert recorder.lost == 0


def test_a_window_holds_what_started_in_it(recorder: Recorder, tmp_path: Path) -> None:
    recorder.add(record())
    recorder.rotate()
    recorder.add(record())
    recorder.flush()
    (now, _) = read_traces(tmp_path)["started_at"]
    hour = timedelta(hours=1)
    assert len(read_traces(tmp_path, Window(now - hour, now + hour))) == 2
    assert len(read_traces(tmp_path, Window(now - hour, now))) == 0


def test_of_too_many_the_oldest_go_and_are_counted(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        recorder.add(record(request_id=f"r-{number}"))
    recorder.flush()
    kept = len(read_traces(tmp_path))
    assert recorder.lost == 1000 - kept
    # Whole blocks go, and the one that is begun comes to those that are full.
    assert 300 - BLOCK < kept < 300 + BLOCK
    assert read_traces(tmp_path)["request_id"].tolist() == [f"r-{number}" for number in range(1000 - kept, 1000)]
    recorder.flush()
    assert len([line for line in caplog.messages if f"{1000 - kept} traces came faster" in line]) == 1


def test_what_is_added_while_others_are_taken_is_kept_once(tmp_path: Path) -> None:
    """One thread adds, another takes, as fast as they can."""
    recorder = Recorder(tmp_path, "tiny", flush_seconds=NEVER_FLUSHED)
    done = threading.Event()

    def take() -> None:
        while not done.is_set():
            recorder.flush()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=take)
    try:
        thread.start()
        for number in range(20_000):
            recorder.add(record(request_id=f"r-{number}"))
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(before)
    recorder.close()
    assert recorder.lost == 0
    found = pq.read_table(tmp_path / TRACES, columns=["request_id"])["request_id"].to_pylist()
    assert sorted(found) == sorted(f"r-{number}" for number in range(20_000))


def test_a_disk_that_refuses_them_loses_traces_and_nothing_else(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / TRACES).rmdir()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            recorder.add(record())
            recorder.flush()
    assert recorder.lost == 2
    assert [line for line in caplog.messages if "were not written" in line] == [caplog.messages[-1]]
    (tmp_path / TRACES).mkdir()
    recorder.add(record())
    recorder.flush()
    assert len(read_traces(tmp_path)) == 1


def test_closing_writes_what_is_left(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "tiny", flush_seconds=NEVER_FLUSHED)
    recorder.add(record())
    recorder.close()
    recorder.close()
    assert len(pq.read_table(tmp_path / TRACES)) == 1


KILLED = """
import sys
from pathlib import Path
from millrace.traces.recorder import Recorder
from tests.unit.millrace.traces.material import record
recorder = Recorder(Path(sys.argv[1]), "tiny", flush_seconds=1e6)
for number in range(5):
    recorder.add(record())
recorder.flush()
print("written", flush=True)
sys.stdin.read()
"""


def test_what_was_written_outlives_a_kill(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert len(read_traces(tmp_path)) == 5
    Recorder(tmp_path, "tiny").close()
    assert len(pq.read_table(tmp_path / TRACES)) == 5


def aged(path: Path, seconds: float) -> Path:
    """The segment as if it had been opened and closed so long ago."""
    moment = time.time() - seconds
    old = path.with_name(f"{datetime.fromtimestamp(moment, UTC):%Y%m%dT%H%M%S%f}-{path.name.partition('-')[2]}")
    path.rename(old)
    os.utime(old, (moment, moment))
    return old


def test_traces_are_removed_when_they_are_too_old(recorder: Recorder, tmp_path: Path) -> None:
    folder = tmp_path / TRACES
    old: set[Path] = set()
    for age in (1000, 500, 10):
        recorder.add(record(request_id=f"{age}"))
        recorder.rotate()
        (new,) = set(folder.glob("*.parquet")) - old
        old.add(aged(new, age))
    recorder.add(record(request_id="open"))
    recorder.flush()

    def left() -> set[str]:
        return set(read_traces(tmp_path)["request_id"])

    recorder.expire()
    assert left() == {"1000", "500", "10", "open"}, "nobody has said how long they are kept"
    recorder.keep_seconds = 700.0
    recorder.expire()
    assert left() == {"500", "10", "open"}
    recorder.keep_seconds = 0.001
    recorder.expire()
    assert left() == {"open"}


def test_a_segment_is_as_old_as_its_newest_trace(recorder: Recorder, tmp_path: Path) -> None:
    """One that a killed writer left is closed long after it was opened."""
    recorder.add(record())
    recorder.rotate()
    (path,) = (tmp_path / TRACES).glob("*.parquet")
    old = aged(path, 1000)
    os.utime(old)
    recorder.keep_seconds = 500.0
    recorder.expire()
    assert old.exists()


def test_the_thread_looks_by_itself(tmp_path: Path) -> None:
    with closing(Recorder(tmp_path, "tiny", flush_seconds=0.01)) as recorder:
        recorder.add(record())
        recorder.rotate()
        (path,) = (tmp_path / TRACES).glob("*.parquet")
        old = aged(path, 1000)
        recorder.keep_seconds = 500.0
        until(lambda: not old.exists(), "the removal")


def test_what_cannot_be_removed_keeps_no_trace_from_being_written(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.keep_seconds = 1.0
    (tmp_path / TRACES).rmdir()
    recorder.expire()
    assert "old traces in" in caplog.text


@pytest.mark.parametrize("action", ["kill", "fail"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_who_dies_at_a_removal_leaves_the_others(action: Any, moment: Any, tmp_path: Path) -> None:
    with closing(Recorder(tmp_path, "tiny", flush_seconds=NEVER_FLUSHED)) as recorder:
        for number in range(3):
            recorder.add(record(request_id=f"{number}"))
            recorder.rotate()
    for path in sorted((tmp_path / TRACES).glob("*.parquet")):
        aged(path, 1000)
    faults = tmp_path / "faults"
    Schedule(faults, (Fault("log.expire", moment, action, nth=2),)).write()
    dies = """
import sys
from pathlib import Path
from millrace.traces.recorder import Recorder
recorder = Recorder(Path(sys.argv[1]), "tiny", flush_seconds=1e6)
recorder.keep_seconds = 500.0
recorder.expire()
recorder.close()
"""
    command = [sys.executable, "-c", dies, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {FOLDER: str(faults)}, capture_output=True, check=False)
    assert done.returncode == (-signal.SIGKILL if action == "kill" else 0), done.stderr
    assert len(read_traces(tmp_path)) == (2 if moment == "before" else 1)
    again = Recorder(tmp_path, "tiny", flush_seconds=NEVER_FLUSHED)
    again.keep_seconds = 500.0
    again.expire()
    again.close()
    assert len(read_traces(tmp_path)) == 0


def test_a_reader_whose_files_are_removed_meanwhile_reads_what_is_left(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        recorder.add(record(request_id=f"{number}"))
        recorder.rotate()
    listed = log_tables._segments

    def then_removed(folder: Path, to_table: Any) -> Any:
        found = listed(folder, to_table)
        for path in found[0][:-1]:
            path.unlink()
        return found

    monkeypatch.setattr(log_tables, "_segments", then_removed)
    assert read_traces(tmp_path)["request_id"].tolist() == ["1"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"kind":"answers"}\n',
        b'{"kind":"traces","pipeline":"tiny"}\n{"trace_id":7}\n',
        b'{"kind":"traces","pipeline":"tiny"}\n{"trace_id":["a"],"span_id":["b","c"]}\n',
        b'{"kind":"traces","pipeline":"tiny"}\n{"traceparents":"00-0af7","status":[200]}\n',
        b'{"kind":"traces","pipeline":"tiny"}\n{"traceparents":"","status":[200]}\n',
    ],
)
def test_a_damaged_segment_is_reported_and_stops_nobody(content: bytes, tmp_path: Path) -> None:
    (tmp_path / TRACES).mkdir()
    (tmp_path / TRACES / "1.jsonl").write_bytes(content)
    with pytest.raises(DataError):
        read_traces(tmp_path)
    recorder = Recorder(tmp_path, "tiny", flush_seconds=NEVER_FLUSHED)
    recorder.add(record())
    recorder.close()
    assert len(list((tmp_path / TRACES).glob("*.parquet"))) == 1
