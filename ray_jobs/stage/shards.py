"""Stage a window of a pipeline's source: one Ray task a shard, then the manifest of the set."""

from __future__ import annotations

from datetime import datetime

import pandas as pd
import pyarrow as pa

from millrace import parquet
from millrace.contract import REASON, check, quarantine_verdict
from millrace.dataset import QUARANTINE, SHARD, StagedSet, count_reasons, set_key, shard_key
from millrace.errors import MillraceError, SourceError
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.storage import Artifact, digest_json
from millrace.verdict import Verdict
from millrace.window import Window, utc
from ray_jobs.cluster import object_store, pipeline_on_worker, run_all


def stage(settings: Settings, pipeline: Pipeline, window: Window, as_of: datetime) -> tuple[StagedSet, Verdict]:
    """Stage `window` as it was known at `as_of`. Shards that are there already are not made again.

    Returns:
        The staged data set, and the verdict on its quarantine.

    Raises:
        SourceError: the source does not answer with the table that the spec describes.
    """
    store = object_store(settings)
    pieces = [(piece, shard_key(pipeline, piece, as_of)) for piece in window.split(pipeline.spec.data.partition)]
    absent = [(settings, pipeline.name, piece, as_of, key) for piece, key in pieces if store.find(key) is None]
    if absent:
        run_all(settings, stage_shard, absent)
    shards = [store.get(key) for _, key in pieces]
    return _commit_set(settings, pipeline, window, as_of, shards)


def stage_shard(settings: Settings, pipeline_name: str, window: Window, as_of: datetime, key: str) -> str:
    """Write one shard: the good rows, the quarantined ones with their reasons, and the counts."""
    pipeline = pipeline_on_worker(settings, pipeline_name)
    checked = check(read_source(pipeline, window, as_of), pipeline.spec.data, window)
    reasons = {str(reason): int(count) for reason, count in checked.quarantined[REASON].value_counts().items()}
    object_store(settings).publish(
        key,
        {SHARD: _parquet(checked.good), QUARANTINE: _parquet(checked.quarantined.astype("string"))},
        summary={
            "rows": len(checked.good),
            "quarantined": len(checked.quarantined),
            "unlabelled": checked.unlabelled,
            "reasons": reasons,
        },
        lineage={
            "source": pipeline.spec.data.source,
            "source_fingerprint": pipeline.source.fingerprint(),
            "window": window.as_dict(),
            "as_of": as_of.isoformat(),
        },
    )
    return key


def read_source(pipeline: Pipeline, window: Window, as_of: datetime) -> pd.DataFrame:
    """The source's rows for `window`, as known at `as_of`.

    Raises:
        SourceError: the source raised, or did not give a table.
    """
    try:
        rows = pipeline.source.rows(window.start, window.end, as_of)
    except MillraceError:
        raise
    except Exception as error:
        raise SourceError(
            f"pipeline '{pipeline.name}': its source raised for {window}",
            got=f"{type(error).__name__}: {error}",
            next=f"try `millrace validate {pipeline.name}`, and correct {pipeline.folder}/source.py",
        ) from error
    if not isinstance(rows, pd.DataFrame):
        raise SourceError(
            f"pipeline '{pipeline.name}': its source gave no table", got=type(rows), allowed="a pandas DataFrame"
        )
    return rows


def source_extent(pipeline: Pipeline) -> Window:
    """The window the source has rows for.

    Raises:
        SourceError: the source raised, or its answer is no interval.
    """
    try:
        start, end = pipeline.source.extent()
        return Window(utc(start), utc(end))
    except MillraceError:
        raise
    except Exception as error:
        raise SourceError(
            f"pipeline '{pipeline.name}': its source does not tell its extent",
            got=f"{type(error).__name__}: {error}",
            allowed="(start, end), two times, start before end",
            next=f"correct {pipeline.folder}/source.py",
        ) from error


def _commit_set(
    settings: Settings, pipeline: Pipeline, window: Window, as_of: datetime, shards: list[Artifact]
) -> tuple[StagedSet, Verdict]:
    reasons: dict[str, int] = {}
    for shard in shards:
        for reason, count in count_reasons(shard).items():
            reasons[reason] = reasons.get(reason, 0) + count
    keys = tuple(shard.key for shard in shards)
    staged = StagedSet(
        pipeline=pipeline.name,
        key=set_key(pipeline.name, window, as_of, keys),
        digest=digest_json([shard.digest for shard in shards]),
        window=window,
        as_of=as_of,
        shards=keys,
        num_rows=sum(int(shard.summary["rows"]) for shard in shards),
        num_quarantined=sum(int(shard.summary["quarantined"]) for shard in shards),
        num_unlabelled=sum(int(shard.summary["unlabelled"]) for shard in shards),
        reasons=reasons,
    )
    store = object_store(settings)
    if store.find(staged.key) is None:
        store.publish(staged.key, {}, summary=staged.as_dict(), lineage={"shards": {s.key: s.digest for s in shards}})
    return staged, quarantine_verdict(staged.num_rows + staged.num_quarantined, reasons, pipeline.spec.data)


def _parquet(rows: pd.DataFrame) -> bytes:
    try:
        return parquet.write(rows)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise SourceError(
            "the source gives values that Parquet cannot hold",
            got=str(error),
            next="correct the source: numbers of at most 64 bits, and valid text",
        ) from error
