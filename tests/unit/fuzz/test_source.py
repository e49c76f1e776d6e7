"""Whatever a source gives: shards with what is bad in quarantine, or an error of ours and no shard."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.contract import REASON, check, required_columns
from millrace.dataset import QUARANTINE, SHARD, shard_key
from millrace.encoding import TableInputs, encode, labels
from millrace.errors import DataError
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.signing import Keys
from millrace.spec import PipelineSpec
from millrace.storage import MANIFEST, ObjectStore
from millrace.window import Window
from ray_jobs.stage import shards
from ray_jobs.stage.shards import read_source, source_extent, stage_shard
from tests.unit.fuzz.material import examples, texts, values

_WINDOW = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
_KINDS = ["binary", "multiclass", "regression"]
_SIZES = st.integers(0, 6)

_moments = st.one_of(
    st.datetimes(datetime(2023, 12, 30), datetime(2024, 2, 2)),
    st.datetimes(timezones=st.just(UTC)),
    st.datetimes(timezones=st.timezones()),
    st.dates(),
    st.just(pd.NaT),
    st.sampled_from(
        ["2024-01-03", "2024-01-03T00:00:00Z", "01/02/2024", "yesterday", "", "2024", "NaT", 1.7e9, 20240103]
    ),
    st.just(datetime(2024, 1, 5, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
)
_cells = st.one_of(
    values,
    _moments,
    st.sampled_from(
        ["red", "green", "low", "mid", "1", "1.0", " 1 ", "0x10", "1_000", "1e3", "inf", "True", 0, 1, 1.5, -1.0]
    ),
    st.sampled_from(
        [
            np.nan,
            np.inf,
            -np.inf,
            pd.NA,
            None,
            np.float32(1),
            np.int8(1),
            np.bool_(True),
            Decimal("NaN"),
            Decimal("1.5"),
        ]
    ),
    st.sampled_from(
        [
            b"bytes",
            1j,
            date(2024, 1, 2),
            timedelta(days=1),
            pd.Timestamp("2024-01-02"),
            pd.Interval(0, 1),
            {1},
            (1, 2),
            object,
        ]
    ),
)
_dtypes = st.sampled_from(
    [
        "object",
        "float64",
        "float32",
        "Int64",
        "int8",
        "uint64",
        "bool",
        "boolean",
        "string",
        "category",
        "datetime64[ns]",
        "datetime64[s]",
        "datetime64[ns, Europe/Berlin]",
        "timedelta64[ns]",
        "complex128",
        "period[D]",
        "Sparse[float64]",
        "string[pyarrow]",
        "int64[pyarrow]",
        "timestamp[us][pyarrow]",
        "bool[pyarrow]",
        "double[pyarrow]",
    ]
)


def good(kind: str, size: int) -> dict[str, list[Any]]:
    answer = {"binary": [0.0, 1.0], "multiclass": ["low", "high"], "regression": [1.5, 2.5]}[kind]
    return {
        "at": [pd.Timestamp(_WINDOW.start) + pd.Timedelta(hours=n) for n in range(size)],
        "id": list(range(size)),
        "size": [float(n) for n in range(size)],
        "weight": [0.5] * size,
        "colour": ["red", "green", "blue"][:size] + ["red"] * max(0, size - 3),
        "answer": [answer[n % 2] for n in range(size)],
    }


@st.composite
def tables(draw: st.DrawFn, kind: str) -> Any:
    """A sound table with a few things wrong: cells, types, names, the index; seldom no table at all."""
    size = draw(_SIZES)
    columns: dict[Any, Any] = good(kind, size)
    for name in draw(st.lists(st.sampled_from(sorted(columns)), max_size=3, unique=True)):
        cells = _moments if name == "at" and draw(st.booleans()) else _cells
        columns[name] = pd.Series(draw(st.lists(cells, min_size=size, max_size=size)), dtype="object")
        if draw(st.booleans()):
            try:
                columns[name] = columns[name].astype(draw(_dtypes))
            except Exception:
                columns[name] = columns[name].convert_dtypes() if draw(st.booleans()) else columns[name]
    table = pd.DataFrame({name: pd.Series(cells) for name, cells in columns.items()})
    match draw(
        st.sampled_from(["as it is"] * 6 + ["drop", "rename", "double", "index", "multi", "repeat", "number", "none"])
    ):
        case "drop":
            table = table.drop(columns=draw(st.sampled_from(list(table.columns))))
        case "rename":
            table = table.rename(columns={draw(st.sampled_from(list(table.columns))): draw(texts)})
        case "double":
            table = pd.concat([table, table[[draw(st.sampled_from(list(table.columns)))]]], axis=1)
        case "index":
            table = table.set_index(draw(st.sampled_from(list(table.columns))))
        case "multi":
            table.columns = pd.MultiIndex.from_product([["a"], table.columns])
        case "repeat":
            table = pd.concat([table, table])
        case "number":
            table.columns = range(len(table.columns))
        case "none":
            return draw(st.sampled_from([None, [1], table.to_dict(), table["id"], b"", "rows"]))
    return table


def assert_split(rows: pd.DataFrame, spec: PipelineSpec) -> None:
    """Every row is good or in quarantine with a reason, and the good ones can be trained on."""
    data = spec.data
    checked = check(rows, data, _WINDOW)
    assert checked.num_rows == len(rows)
    assert (checked.quarantined[REASON].str.len() > 0).all()
    assert not checked.good[data.row_id].duplicated().any()
    assert checked.good[data.event_time].between(_WINDOW.start, _WINDOW.end, inclusive="left").all()
    assert list(checked.good.columns) == required_columns(data)
    batch = encode(checked.good, data)
    assert not np.isinf(batch["numeric"]).any()
    found = labels(checked.good, data)
    assert np.isfinite(found[~np.isnan(found)]).all()
    assert int(np.isnan(found).sum()) == checked.unlabelled
    TableInputs.fit(checked.good, data)


@pytest.mark.parametrize("kind", _KINDS)
@given(data=st.data())
@examples(1.5)
def test_any_table(kind: str, data: st.DataObject, make_spec: Callable[..., PipelineSpec]) -> None:
    table = data.draw(tables(kind))
    if not isinstance(table, pd.DataFrame):
        return
    before = table.copy(deep=True)
    try:
        assert_split(table, make_spec(kind))
    except DataError as error:
        assert error.next
        assert len(str(error)) < 4000
    pd.testing.assert_frame_equal(table, before)  # what the source gave is not ours to change


@dataclass
class Given:
    """A source that gives `table`, or raises it."""

    table: Any

    def extent(self) -> Any:
        return self.table

    def fingerprint(self) -> str:
        return "given"

    def rows(self, start: datetime, end: datetime, as_of: datetime) -> Any:
        if isinstance(self.table, BaseException):
            raise self.table
        return self.table


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory, write_pipeline: Callable[..., Pipeline]) -> dict[str, Pipeline]:
    return {kind: write_pipeline(tmp_path_factory.mktemp(kind), kind) for kind in _KINDS}


@given(data=st.data(), kind=st.sampled_from(_KINDS))
@examples(2)
def test_a_shard_is_whole_or_absent(data: st.DataObject, kind: str, pipelines: dict[str, Pipeline]) -> None:
    fixed = pipelines[kind]
    pipeline = Pipeline(fixed.spec, fixed.folder)
    pipeline.__dict__["source"] = Given(data.draw(tables(kind)))
    assert_whole_or_absent(pipeline)


def assert_whole_or_absent(pipeline: Pipeline) -> bool:
    """Whether staging was refused; then nothing is there, and else every row."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "pipeline_on_worker", lambda settings, name: pipeline)
        settings = Settings(state_dir=Path(folder), pipelines_dir=pipeline.folder.parent)
        Keys(settings.signing_key).create()
        key = shard_key(pipeline, _WINDOW, _WINDOW.end)
        try:
            stage_shard(settings, "tiny", _WINDOW, _WINDOW.end, key)
        except DataError as error:
            assert error.next or error.allowed
            assert list(Path(folder).rglob(MANIFEST)) == []
            return True
        artifact = ObjectStore.of(settings).get(key)
        kept, quarantined = (pd.read_parquet(BytesIO(artifact.read(name))) for name in (SHARD, QUARANTINE))
        assert (len(kept), len(quarantined)) == (artifact.summary["rows"], artifact.summary["quarantined"])
        assert len(kept) + len(quarantined) == len(pipeline.source.rows(_WINDOW.start, _WINDOW.end, _WINDOW.end))
        assert sum(artifact.summary["reasons"].values()) == len(quarantined)
        json.dumps(artifact.summary)
        return False


_ODD = [
    None,
    pd.NA,
    pd.NaT,
    np.nan,
    np.inf,
    10**30,
    10**400,
    -0.0,
    True,
    1j,
    Decimal("NaN"),
    Decimal("1e999"),
    np.complex64(1),
    "",
    " 1 ",
    "1_0",
    "nan",
    "inf",
    "\ud800",
    "\x00",
    "red",
    "x" * 100_000,
    b"red",
    b"\xff",
    [],
    [1],
    {},
    {"a": 1},
    (),
    {1},
    date(2024, 1, 2),
    datetime(2024, 1, 2),
    datetime(1, 1, 1),
    datetime(9999, 1, 1),
    timedelta(1),
    pd.Interval(0, 1),
    pd.Period("2024-01"),
    np.array([1, 2]),
    object,
    pd.Series([1]),
]


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "binary") for name in ("at", "id", "size", "colour")), *(("answer", kind) for kind in _KINDS)],
)
def test_each_odd_cell_in_each_column(name: str, kind: str, pipelines: dict[str, Pipeline]) -> None:
    """One odd cell among sound ones costs its own row, or the shard with a clear message."""
    fixed = pipelines[kind]
    told = 0
    for odd in _ODD:
        table = pd.DataFrame(good(kind, 4)).astype({name: "object"})
        table.at[1, name] = odd
        pipeline = Pipeline(fixed.spec, fixed.folder)
        pipeline.__dict__["source"] = Given(table)
        told += assert_whole_or_absent(pipeline)
    assert told == 0 or name in ("at", "id")  # a bad value of a feature or a label never costs its neighbours


@given(answer=st.one_of(values, st.lists(_cells, max_size=3).map(tuple), st.tuples(_moments, _moments)))
def test_any_extent(answer: Any, pipelines: dict[str, Pipeline]) -> None:
    pipeline = Pipeline(pipelines["binary"].spec, pipelines["binary"].folder)
    pipeline.__dict__["source"] = Given(answer)
    try:
        window = source_extent(pipeline)
    except DataError as error:
        assert error.next
    else:
        assert window.start < window.end


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        MemoryError(),
        RecursionError(),
        OSError(5, "disk"),
        StopIteration(),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "y"),
    ],
)
def test_any_exception_of_a_source(error: Exception, pipelines: dict[str, Pipeline]) -> None:
    pipeline = Pipeline(pipelines["binary"].spec, pipelines["binary"].folder)
    pipeline.__dict__["source"] = Given(error)
    with pytest.raises(DataError, match="its source raised") as caught:
        read_source(pipeline, _WINDOW, _WINDOW.end)
    assert type(error).__name__ in str(caught.value)
