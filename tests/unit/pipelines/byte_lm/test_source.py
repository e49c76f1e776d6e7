"""The standard library as documents: the same ones, at the same times, wherever they are asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from millrace.contract import check
from millrace.pipeline import Pipeline, Source, load_module, load_pipeline
from millrace.window import Window

FOLDER = Path(__file__).parents[4] / "pipelines" / "byte_lm"
YEAR = Window(datetime(2024, 1, 1), datetime(2025, 1, 1))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A small library: modules, an empty one, one in Latin-1, and what is left out."""
    for name in ("json/decoder.py", "os.py", "test/test_os.py", "json/tests/a.py", "site-packages/x.py", "note.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    (tmp_path / "empty.py").touch()
    (tmp_path / "latin.py").write_bytes("# coding: latin-1\n# é\n".encode("latin-1"))
    return tmp_path


def source(folder: Path, **options: Any) -> Any:
    made = load_module(FOLDER, "source", "data.source").StandardLibrary(folder=str(folder), **options)
    assert isinstance(made, Source)
    return made


def test_documents_are_modules_that_are_no_tests(library: Path) -> None:
    rows = source(library).rows(YEAR.start, YEAR.end, YEAR.end)
    assert list(rows["document"]) == ["empty.py", "json/decoder.py", "latin.py", "os.py"]
    assert list(rows["text"])[1] == "# json/decoder.py\n"
    assert rows["at"].between(YEAR.start, YEAR.end, inclusive="left").all()


def test_the_contract_keeps_what_is_text(library: Path) -> None:
    data = load_pipeline("byte_lm", FOLDER.parent).spec.texts
    checked = check(source(library).rows(YEAR.start, YEAR.end, YEAR.end), data, YEAR)
    assert sorted(checked.good["document"]) == ["json/decoder.py", "os.py"]
    found = dict(zip(checked.quarantined["document"], checked.quarantined["quarantine_reason"], strict=True))
    assert found == {"empty.py": "text: empty", "latin.py": "text: not valid Unicode"}


def test_a_window_has_its_documents_and_none_that_came_later(library: Path) -> None:
    found = source(library)
    times = found.moments
    for name, at in times.items():
        window = (at, at + timedelta(seconds=1))
        assert name in list(found.rows(*window, YEAR.end)["document"])
        assert found.rows(*window, at - timedelta(seconds=1)).empty
    assert times == source(library).moments, "drawn from names alone"
    assert source(library, year=1999).extent()[0] == datetime(1999, 1, 1, tzinfo=UTC)


def test_a_share_is_a_part_of_a_larger_share(library: Path) -> None:
    for number in range(200):
        (library / f"m{number}.py").write_text("pass")
    some, more = (set(source(library, share=share).moments) for share in (0.3, 0.6))
    assert some < more < set(source(library).moments)
    assert 30 < len(some) < 90


def test_the_fingerprint_tells_names_and_contents(library: Path) -> None:
    before = source(library).fingerprint()
    assert source(library).fingerprint() == before
    (library / "os.py").write_text("changed")
    changed = source(library).fingerprint()
    (library / "os.py").rename(library / "so.py")
    assert len({before, changed, source(library).fingerprint()}) == 3


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="share is 0"):
        source(tmp_path, share=0)
    with pytest.raises(FileNotFoundError, match="no Python sources"):
        source(tmp_path).fingerprint()


def test_every_python_has_enough_of_it() -> None:
    pipeline: Pipeline = load_pipeline("byte_lm", FOLDER.parent)
    month = Window(datetime(2024, 3, 1), datetime(2024, 4, 1))
    checked = check(pipeline.source.rows(month.start, month.end, YEAR.end), pipeline.spec.data, month)
    assert len(checked.good) > 20
    assert checked.good["text"].str.len().sum() > 100_000
    assert len(checked.quarantined) / checked.num_rows <= pipeline.spec.data.max_quarantined_share
