"""The inference log loses nothing that was appended and counts nothing twice, whatever is killed when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import inference_log as log
from millrace.errors import DataError, ServiceError, SpecError
from millrace.log_writer import LogWriter
from millrace.requests import ParsedOutcomes, RequestContract
from millrace.spec import PipelineSpec
from millrace.spec.load import parse_spec
from millrace.window import Window

START = datetime(2013, 1, 1, tzinfo=UTC)
NEVER = 1e9


def spec(label: dict[str, Any] | None = None, **features: Any) -> PipelineSpec:
    label = {"column": "late", "kind": "binary"} | (label or {})
    return parse_spec(
        {
            "name": "tiny",
            "data": {
                "source": "source:S",
                "event_time": "departs",
                "row_id": "flight",
                "features": {
                    "delay": {"kind": "numeric", "nullable": True},
                    "carrier": {"kind": "categorical", "values": ["AA", "UA"], "nullable": True},
                }
                | features,
                "label": label,
            },
            "evaluation": {"metric": "accuracy" if label["kind"] != "regression" else "rmse"},
        }
    )


SPEC = spec()
DATA = SPEC.data


def answer(writer: LogWriter, request_id: str, num_rows: int = 1, at: datetime = START, **change: Any) -> None:
    rows = [
        {"delay": None if i % 2 else 1.5, "carrier": "UA", "departs": at.isoformat(), "flight": f"{request_id}/{i}"}
        for i in range(num_rows)
    ]
    parsed = RequestContract(SPEC).parse(orjson.dumps({"rows": rows}))
    values = {"version": "1", "answered_at": at, "seconds": 0.001, "prediction": [0.25] * num_rows} | change
    writer.append(log.answer_record(parsed, request_id=request_id, **values))


def kill(writer: LogWriter, torn: bytes = b"") -> None:
    """What is left of a writer whose process got SIGKILL, perhaps inside a write: the kernel closes its file."""
    with writer._lock:
        segment, writer._segment = writer._segment, None
        writer._is_closed = True
        if segment is not None:
            if torn:
                os.write(segment.fd, torn)
            os.close(segment.fd)
    writer._full.put(None)
    writer._thread.join()


def keys(folder: Path) -> list[tuple[str, int]]:
    rows = log.read_answers(folder, DATA)
    return sorted(zip(rows["request_id"], rows["row"], strict=True))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3)),
        st.tuples(
            st.sampled_from(["rotate", "kill", "kill in a write", "kill in a close", "compact", "close"]), st.just(0)
        ),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_nothing_is_lost_or_doubled(plan: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected: list[tuple[str, int]] = []
        writer = log.answers_writer(folder, DATA, NEVER)
        for number, (step, num_rows) in enumerate(plan):
            if step == "append":
                answer(writer, f"r{number}", num_rows)
                expected += [(f"r{number}", row) for row in range(num_rows)]
            elif step == "rotate":
                writer.rotate()
            elif step == "compact":
                log.compact(folder)
            else:
                _end(writer, step)
                writer = log.answers_writer(folder, DATA, NEVER)
            assert keys(folder) == sorted(expected)
        kill(writer)
        log.compact(folder)
        assert keys(folder) == sorted(expected)
        assert not list((folder / log.ANSWERS).glob("*.jsonl"))


def _end(writer: LogWriter, step: str) -> None:
    if step == "close":
        writer.close()
    elif step == "kill in a close" and writer._segment is not None:
        path, content = writer._segment.path, writer._segment.path.read_bytes()
        writer.rotate()
        path.write_bytes(content)
        (path.parent / ".half.tmp").write_bytes(b"PAR1")
        kill(writer)
    else:
        kill(writer, b'{"request_id":"torn","ver' if step == "kill in a write" else b"")


def test_a_killed_process_loses_nothing_it_appended(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_inference_log as t
writer = t.log.answers_writer(Path(sys.argv[1]), t.DATA, 0.05)
for number in range(10**9):
    t.answer(writer, f"r{number}")
    print(number, flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    seen = [int(child.stdout.readline()) for _ in range(300)]
    child.send_signal(signal.SIGKILL)
    seen += [int(line) for line in child.stdout.read().split()]
    child.stdout.close()
    child.wait()
    log.compact(tmp_path)
    found = keys(tmp_path)
    assert set(found) >= {(f"r{number}", 0) for number in seen}
    assert len(found) == len(set(found)) <= len(seen) + 1


def test_the_segment_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    writer = log.answers_writer(tmp_path, DATA, NEVER)
    answer(writer, "a")
    assert log.compact(tmp_path) == []
    answer(writer, "b")
    writer.close()
    assert keys(tmp_path) == [("a", 0), ("b", 0)]


def test_many_may_compact_at_once(tmp_path: Path) -> None:
    for number in range(20):
        writer = log.answers_writer(tmp_path, DATA, NEVER)
        answer(writer, f"r{number}")
        kill(writer)
    with ThreadPoolExecutor(8) as pool:
        done = [path for paths in pool.map(lambda _: log.compact(tmp_path), range(8)) for path in paths]
    assert len(done) == len(set(done)) == 20
    assert len(keys(tmp_path)) == 20


def test_readers_and_writers_do_not_disturb_each_other(tmp_path: Path) -> None:
    writer = log.answers_writer(tmp_path, DATA, 0.02)
    written = threading.Event()

    def write() -> None:
        for number in range(400):
            answer(writer, f"r{number:03}")
        written.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = 0
    while not written.is_set():
        found = keys(tmp_path)
        assert len(found) == len(set(found)) >= seen
        seen = len(found)
    thread.join()
    writer.close()
    assert len(keys(tmp_path)) == 400


def test_a_segment_is_closed_by_age_and_by_size(tmp_path: Path) -> None:
    by_age = log.answers_writer(tmp_path / "age", DATA, 0.05)
    answer(by_age, "a")
    by_size = LogWriter(tmp_path / "size" / log.ANSWERS, log.answers_header(DATA), log.to_table, NEVER, rotate_bytes=10)
    answer(by_size, "a")
    poll = threading.Event()
    for folder in ("age", "size"):
        assert any(list((tmp_path / folder / log.ANSWERS).glob("*.parquet")) or poll.wait(0.02) for _ in range(500)), (
            folder
        )
    by_age.close()
    by_size.close()


def test_a_closed_log_refuses_records(tmp_path: Path) -> None:
    writer = log.answers_writer(tmp_path, DATA, NEVER)
    writer.close()
    writer.close()
    with pytest.raises(ServiceError, match="is closed"):
        answer(writer, "a")


@pytest.mark.parametrize("short", [0, 5])
def test_a_refused_write_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: int) -> None:
    writer = log.answers_writer(tmp_path, DATA, NEVER)
    answer(writer, "a")
    whole = os.write

    def fails(fd: int, data: bytes) -> int:
        if not short:
            raise OSError(28, "No space left on device")
        return whole(fd, data[:short])

    monkeypatch.setattr("millrace.segments.os.write", fails)
    with pytest.raises(ServiceError, match="cannot be written"):
        answer(writer, "b")
    monkeypatch.undo()
    answer(writer, "c")
    writer.close()
    assert keys(tmp_path) == [("a", 0), ("c", 0)]


@pytest.mark.parametrize("damage", [b'{"request_id":"x","ver\n', b"\n[1]\n", b'{"request_id":3}\n'])
def test_damage_within_a_segment_is_reported_by_file(tmp_path: Path, damage: bytes) -> None:
    writer = log.answers_writer(tmp_path, DATA, NEVER)
    answer(writer, "a")
    assert writer._segment is not None
    path = writer._segment.path
    kill(writer, damage)
    whole = log.answers_writer(tmp_path, DATA, NEVER)
    answer(whole, "b")
    kill(whole)
    with pytest.raises(DataError, match=path.name):
        log.read_answers(tmp_path, DATA)
    with pytest.raises(DataError, match=path.name):
        log.compact(tmp_path)
    path.unlink()
    assert keys(tmp_path) == [("b", 0)]


def test_types_do_not_depend_on_the_rows(tmp_path: Path) -> None:
    empty = log.read_joined(tmp_path, DATA)
    writer = log.answers_writer(tmp_path, DATA, NEVER)
    answer(writer, "a")
    full = log.read_joined(tmp_path, DATA)
    assert list(empty.columns) == list(full.columns)
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    row = full.iloc[0]
    assert (row["request_id"], row["row"], row["row_id"], row["version"]) == ("a", 0, "a/0", "1")
    assert row["event_time"] == row["answered_at"] == pd.Timestamp(START)
    assert (row["delay"], row["carrier"], row["prediction"]) == (1.5, "UA", 0.25)
    assert pd.isna(row["label"])
    writer.close()


def test_a_window_selects_by_event_time(tmp_path: Path) -> None:
    writer = log.answers_writer(tmp_path, DATA, NEVER)
    for day in range(6):
        answer(writer, f"day{day}", at=START + timedelta(days=day))
        if day % 2:
            writer.rotate()
    window = Window(START + timedelta(days=1), START + timedelta(days=5))
    assert log.read_answers(tmp_path, DATA, window)["request_id"].tolist() == ["day1", "day2", "day3", "day4"]
    writer.close()


def test_the_newest_answer_and_the_newest_outcome_win(tmp_path: Path) -> None:
    writer = log.answers_writer(tmp_path, DATA, NEVER)
    answer(writer, "a", 2, prediction=[0.1, 0.2], answered_at=START + timedelta(seconds=5))
    answer(writer, "a", 1, prediction=[0.9], answered_at=START)
    writer.close()
    outcomes = log.outcomes_writer(tmp_path, DATA, NEVER)
    for label, known_at in ((1.0, 20), (0.0, 10)):
        outcomes.append(log.outcome_record(ParsedOutcomes(["a"], [0], [label], [known_at])))
    outcomes.close()
    joined = log.read_joined(tmp_path, DATA).set_index("row")
    assert joined["prediction"].to_dict() == {0: 0.1, 1: 0.2}
    assert joined.loc[0, "label"] == 1.0
    assert joined.loc[0, "known_at"] == pd.Timestamp(20, unit="us", tz="UTC")
    assert pd.isna(joined.loc[1, "label"])


def test_classes_have_their_probabilities(tmp_path: Path) -> None:
    data = spec({"kind": "multiclass", "classes": ["no", "yes"]}).data
    writer = log.answers_writer(tmp_path, data, NEVER)
    answer(writer, "a", prediction=["yes"], probabilities={"no": [0.25], "yes": [0.75]})
    row = log.read_answers(tmp_path, data).iloc[0]
    writer.close()
    assert (row["prediction"], row["probability_no"], row["probability_yes"]) == ("yes", 0.25, 0.75)


def test_a_feature_that_came_later_is_empty_in_older_segments(tmp_path: Path) -> None:
    for end in (LogWriter.close, kill):
        writer = log.answers_writer(tmp_path, DATA, NEVER)
        answer(writer, f"r-{end.__name__}")
        end(writer)
    found = log.read_answers(tmp_path, spec(wind={"kind": "numeric"}).data)
    assert found["wind"].isna().all()
    assert len(found) == 2


def test_a_feature_that_changed_its_kind_is_reported(tmp_path: Path) -> None:
    writer = log.answers_writer(tmp_path, DATA, NEVER)
    answer(writer, "a")
    writer.close()
    with pytest.raises(DataError, match="does not fit the spec"):
        log.read_answers(tmp_path, spec(carrier={"kind": "numeric"}).data)


def test_a_feature_may_not_have_the_name_of_a_log_column() -> None:
    with pytest.raises(SpecError, match="'seconds'"):
        log.answers_header(spec(seconds={"kind": "numeric"}).data)
