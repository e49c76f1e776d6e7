"""A canary is found in every form that a text may take, and in every packing; nothing else is."""

from __future__ import annotations

import base64
import gzip
import random
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.reliability.leaks import files
from benchmarks.reliability.nest import Nest

NEST = Nest(1000, seed=1)


def test_canaries_are_distinct_and_given_once() -> None:
    nest = Nest(1000, seed=1)
    assert nest.canaries == NEST.canaries
    assert len({canary.lower() for canary in nest.canaries}) == 1000
    assert not set(nest.take(400)) & set(nest.take(600))
    assert nest.left == 0
    with pytest.raises(ValueError, match="1001 canaries are taken"):
        nest.take(1)


@given(number=st.integers(0, 999), before=st.binary(max_size=5), after=st.binary(max_size=5))
@settings(max_examples=100, deadline=None)
def test_a_canary_is_found_in_each_form(number: int, before: bytes, after: bytes) -> None:
    canary = NEST.canaries[number]
    raw = before + canary.encode() + after
    assert list(NEST.find(raw)) == [canary]
    assert list(NEST.find(raw.upper())) == [canary]
    for form in (raw.hex().encode(), base64.b64encode(raw), base64.urlsafe_b64encode(raw), canary.encode("utf-16")):
        assert list(NEST.find(form))
    assert list(NEST.find("".join(f"%{byte:02X}" for byte in raw).encode()))
    assert list(NEST.find(quote(canary).encode())) == [canary]


@pytest.mark.parametrize("piece", [slice(0, 12), slice(14, None)])
def test_a_piece_is_found(piece: slice) -> None:
    assert list(NEST.find(NEST.canaries[5][piece].encode())) == ["a piece, plain"]


def test_noise_is_not() -> None:
    noise = random.Random(2).randbytes(1_000_000)
    for content in (noise, noise.hex().encode(), base64.b64encode(noise)):
        assert list(NEST.find(content)) == []


def to_database(path: Path, text: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
        # Longer than a page: it lies scattered.
        connection.execute("INSERT INTO t VALUES (?)", ("a" * 4090 + text,))
    connection.close()


def to_parquet(path: Path, text: str) -> None:
    pq.write_table(pa.table({"x": [text] * 3}), path, compression="zstd")


def to_gzip(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


def to_zip(path: Path, text: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", text)


def to_name(path: Path, text: str) -> None:
    (path.parent / text).mkdir()


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.db", to_database), ("a.parquet", to_parquet), ("a.gz", to_gzip), ("a.zip", to_zip), ("x", to_name)],
)
def test_files_are_searched_through_their_packing(
    name: str, write: Callable[[Path, str], None], tmp_path: Path
) -> None:
    write(tmp_path / name, NEST.canaries[7])
    assert NEST.canaries[7] in {found for _, content in files(tmp_path, frozenset()) for found in NEST.find(content)}


def test_a_home_of_secrets_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(NEST.canaries[7])
    contents = [content for _, content in files(tmp_path, frozenset({tmp_path / "token"}))]
    assert contents == [b"token"], "its name alone"
