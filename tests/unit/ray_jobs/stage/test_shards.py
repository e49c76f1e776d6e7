"""One shard: the good rows, the quarantined ones with their reasons, and the counts. No Ray here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from millrace.contract import REASON
from millrace.dataset import QUARANTINE, SHARD, count_reasons, shard_key
from millrace.errors import ConfigError, SourceError
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.storage import Artifact, ObjectStore
from millrace.window import Window
from ray_jobs.stage import shards
from ray_jobs.stage.shards import read_source, source_extent, stage, stage_shard

START = datetime(2024, 1, 1, tzinfo=UTC)
WINDOW = Window(START, datetime(2024, 2, 1))
LATER = datetime(2030, 1, 1, tzinfo=UTC)
Make = Callable[..., Pipeline]


def table(artifact: Artifact, name: str) -> pd.DataFrame:
    return pd.read_parquet(BytesIO(artifact.read(name)))


def shard(pipeline: Pipeline, settings: Settings, as_of: datetime = LATER, window: Window = WINDOW) -> Artifact:
    key = shard_key(pipeline, window, as_of)
    assert stage_shard(settings, "tiny", window, as_of, key) == key
    return ObjectStore.of(settings).get(key)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_good_and_quarantined_rows_are_all_rows(
    kind: str, write_pipeline: Make, tmp_path: Path, local_settings: Settings
) -> None:
    pipeline = write_pipeline(tmp_path, kind, {"data.source_options.bad": 4})
    artifact = shard(pipeline, local_settings)
    good, quarantined = table(artifact, SHARD), table(artifact, QUARANTINE)
    given = read_source(pipeline, WINDOW, LATER)
    assert sorted([*good["id"], *quarantined["id"].astype(int)]) == given["id"].tolist()
    assert set(quarantined[REASON]) == {"size: below 0"}
    assert (good["size"] >= 0).all()
    assert artifact.summary == {
        "rows": len(good),
        "quarantined": len(quarantined),
        "unlabelled": 0,
        "reasons": {"size: below 0": len(quarantined)},
    }
    assert count_reasons(artifact) == {"size: below 0": len(quarantined)}
    assert len(quarantined) > 20


def test_rows_without_an_outcome_are_kept_and_counted(tiny: Pipeline, local_settings: Settings) -> None:
    as_of = START + timedelta(days=10)
    artifact = shard(tiny, local_settings, as_of)
    good = table(artifact, SHARD)
    assert artifact.summary["unlabelled"] == good["answer"].isna().sum() == (good["at"] > as_of).sum()


def test_the_lineage_says_where_the_rows_came_from(tiny: Pipeline, local_settings: Settings) -> None:
    assert shard(tiny, local_settings).lineage == {
        "source": "source:Generated",
        "source_fingerprint": "binary-0",
        "window": WINDOW.as_dict(),
        "as_of": LATER.isoformat(),
    }


def test_staging_a_shard_again_gives_the_same_one(tiny: Pipeline, local_settings: Settings) -> None:
    one, two = shard(tiny, local_settings), shard(tiny, local_settings)
    assert (one.digest, one.created_at) == (two.digest, two.created_at)


def test_a_window_without_rows_is_an_empty_shard(tiny: Pipeline, local_settings: Settings) -> None:
    artifact = shard(tiny, local_settings, window=Window(LATER, LATER + timedelta(days=1)))
    assert artifact.summary["rows"] == artifact.summary["quarantined"] == 0
    assert list(table(artifact, SHARD).columns) == ["id", "at", "size", "weight", "colour", "answer"]


# Sources that go wrong


def test_a_source_that_raises_is_named_with_what_it_raised(write_pipeline: Make, tmp_path: Path) -> None:
    pipeline = write_pipeline(tmp_path, change={"data.source_options.fail": "raise"})
    with pytest.raises(SourceError) as caught:
        read_source(pipeline, WINDOW, LATER)
    assert caught.value.what == "pipeline 'tiny': its source raised for [2024-01-01, 2024-02-01)"
    assert caught.value.got == repr("KeyError: 'no such table'")
    assert caught.value.next == f"try `millrace validate tiny`, and correct {pipeline.folder}/source.py"


def test_a_source_that_gives_no_table_is_told_so(write_pipeline: Make, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        read_source(write_pipeline(tmp_path, change={"data.source_options.fail": "list"}), WINDOW, LATER)
    assert caught.value.what == "pipeline 'tiny': its source gave no table"
    assert (caught.value.got, caught.value.allowed) == (repr(list), "a pandas DataFrame")


def test_a_failed_shard_leaves_nothing(write_pipeline: Make, tmp_path: Path, local_settings: Settings) -> None:
    write_pipeline(tmp_path, change={"data.source_options.fail": "raise"})
    with pytest.raises(SourceError):
        stage_shard(local_settings, "tiny", WINDOW, LATER, "k")
    assert ObjectStore.of(local_settings).find("k") is None


SILENT = """
class Generated:
    def __init__(self, kind): pass
    def fingerprint(self): return ""
    def rows(self, start, end, as_of): return None
    def extent(self): {body}
"""


@pytest.mark.parametrize(
    ("body", "got"),
    [
        ("return 3", "TypeError"),
        ("return None, None", "AttributeError"),
        ("1 / 0", "ZeroDivisionError"),
        ("from datetime import datetime as d; return d(2024, 1, 2), d(2024, 1, 1)", "must end after it starts"),
    ],
)
def test_an_extent_that_is_no_interval_is_refused(body: str, got: str, write_pipeline: Make, tmp_path: Path) -> None:
    pipeline = write_pipeline(tmp_path, source=SILENT.format(body=body))
    with pytest.raises(SourceError) as caught:
        source_extent(pipeline)
    assert caught.value.what == "pipeline 'tiny': its source does not tell its extent"
    assert got in (caught.value.got or "")
    assert caught.value.allowed == "(start, end), two times, start before end"


def test_the_extent_is_a_window(tiny: Pipeline) -> None:
    assert source_extent(tiny) == Window(START, datetime(2024, 3, 1))


def test_our_own_errors_pass_through(write_pipeline: Make, tmp_path: Path) -> None:
    body = "from millrace.errors import ConfigError; raise ConfigError('no bucket')"
    with pytest.raises(ConfigError, match=r"^no bucket$"):
        source_extent(write_pipeline(tmp_path, source=SILENT.format(body=body)))


# The whole set, with the cluster's part played by a loop


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the shards that were asked of the cluster."""
    keys: list[str] = []

    def run_all(_: Settings, function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
        keys.extend(given[-1] for given in arguments)
        return [function(*given) for given in arguments]

    monkeypatch.setattr(shards, "run_all", run_all)
    return keys


def test_a_set_is_staged_by_month_and_only_what_is_absent(
    write_pipeline: Make, tmp_path: Path, local_settings: Settings, asked: list[str]
) -> None:
    pipeline = write_pipeline(tmp_path, change={"data.source_options.bad": 1})
    whole = source_extent(pipeline)
    staged, verdict = stage(local_settings, pipeline, whole, LATER)
    assert asked == list(staged.shards)
    assert len(asked) == 2
    given = read_source(pipeline, whole, LATER)
    assert staged.num_rows + staged.num_quarantined == len(given)
    assert staged.reasons == {"size: below 0": staged.num_quarantined}
    assert not verdict.passed, "one row in fifty is bad, one in a hundred allowed"
    store = ObjectStore.of(local_settings)
    assert store.get(staged.key).summary["digest"] == staged.digest
    assert len(staged.read(store, pipeline.spec.data, whole)) == staged.num_rows
    again, _ = stage(local_settings, pipeline, whole, LATER)
    assert again == staged
    longer, _ = stage(local_settings, pipeline, Window(whole.start, whole.end + timedelta(days=1)), LATER)
    assert longer.shards[:2] == staged.shards
    assert len(asked) == 3, "the months that are there are not made again"
