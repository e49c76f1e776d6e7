"""A table is read as it was written; a file that another writer made is not."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import parquet
from millrace.errors import ArtifactError


def table(num_rows: int = 100) -> pd.DataFrame:
    number = np.arange(num_rows)
    return pd.DataFrame(
        {
            "id": number,
            "at": pd.date_range("2024-01-01", periods=num_rows, freq="h", tz="UTC"),
            "size": np.where(number % 7 == 0, np.nan, number / 3),
            "colour": np.array(["red", "grün", None], object)[number % 3],
            "kind": pd.Categorical(np.array(["a", "b"])[number % 2], categories=["a", "b"]),
            "good": number % 2 == 0,
        }
    )


@pytest.mark.parametrize("num_rows", [0, 1, 100, 70_000])
def test_what_was_written_is_read(num_rows: int) -> None:
    rows = table(num_rows)
    found = parquet.read(parquet.write(rows), "t")
    pd.testing.assert_frame_equal(found, rows, check_categorical=num_rows > 0)
    assert found["colour"].dtype == object


def test_columns_are_chosen() -> None:
    content, chosen = parquet.write(table()), ["size", "id"]
    pd.testing.assert_frame_equal(parquet.read(content, "t", chosen)[chosen], table()[chosen])
    with pytest.raises(ArtifactError, match="no column weight"):
        parquet.read(content, "t", ["weight"])


def test_too_many_rows_are_refused_before_they_are_read() -> None:
    with pytest.raises(ArtifactError, match="100 rows, at most 99 are allowed"):
        parquet.read(parquet.write(table(100)), "t", max_rows=99)


def test_long_texts_are_counted_before_they_are_made() -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int32)), pa.array(["x" * 100_000]))
    buffer = BytesIO()
    pq.write_table(pa.table({"a": texts}), buffer, store_schema=False)
    assert len(buffer.getvalue()) < 200_000
    with pytest.raises(ArtifactError, match="it unpacks to 10000000000 bytes"):
        parquet.read(buffer.getvalue(), "t")


@given(position=st.integers(0, 10**6), flip=st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_read_or_refused(position: int, flip: int) -> None:
    """Damage to the pages. In the footer Arrow can end the process (docs/decisions/0005): there the digest, which is
    compared first, is what stands between."""
    content = bytearray(_WHOLE)
    footer_bytes = int.from_bytes(content[-8:-4], "little") + 8
    content[position % (len(content) - footer_bytes)] ^= flip
    try:
        parquet.read(bytes(content), "t")
    except ArtifactError as error:
        assert error.what == "t holds no table that can be used"


_WHOLE = parquet.write(table(50))
