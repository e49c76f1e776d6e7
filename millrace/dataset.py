"""Staged data sets: validated shards by calendar period, and the manifest that ties them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from millrace import parquet
from millrace.contract import known_at
from millrace.errors import DataError
from millrace.pipeline import Pipeline, WindowedSource
from millrace.spec import DataSpec, TableSpec
from millrace.storage import Artifact, ObjectStore, digest_json
from millrace.window import Window, utc

SHARD = "rows.parquet"
QUARANTINE = "quarantine.parquet"


@dataclass(frozen=True, slots=True)
class StagedSet:
    """A staged data set: the shards' keys in time order and what was counted on the way."""

    pipeline: str
    key: str
    digest: str
    window: Window
    as_of: datetime
    shards: tuple[str, ...]
    num_rows: int
    num_quarantined: int
    num_unlabelled: int
    reasons: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"window": self.window.as_dict(), "as_of": self.as_of.isoformat()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> StagedSet:
        window = Window(*(datetime.fromisoformat(document["window"][side]) for side in ("start", "end")))
        return cls(
            **{
                **document,
                "window": window,
                "as_of": datetime.fromisoformat(document["as_of"]),
                "shards": tuple(document["shards"]),
            }
        )

    def read(
        self, store: ObjectStore, data: DataSpec, window: Window, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """The good rows whose event lies in `window`, in time order, labelled or not; all columns, or only `columns`.

        Raises:
            DataError: there is no such row.
            DigestError: a shard differs from its manifest.
        """
        frames = [frame for frame in self.parts(store, data, window, columns) if len(frame)]
        if not frames:
            raise self.no_rows(window)
        return pd.concat(frames, ignore_index=True)

    def no_rows(self, window: Window) -> DataError:
        """The error for a window that is empty here."""
        return DataError(
            f"staged data set {self.key} has no rows in {window}",
            got=str(self.window),
            next="train with a later as_of, or shorten evaluation.window_days and training.validation_days",
        )

    def parts(
        self, store: ObjectStore, data: DataSpec, window: Window, columns: Sequence[str] | None = None
    ) -> Iterator[pd.DataFrame]:
        """As `read`, a shard at a time; none has to have rows.

        Raises:
            DigestError: a shard differs from its manifest.
        """
        wanted = None if columns is None else list(dict.fromkeys([data.event_time, *columns]))
        for key in self.shards:
            if _overlaps(key, window):
                frame = parquet.read(store.get(key).read(SHARD), f"{key}/{SHARD}", wanted)
                yield frame[(frame[data.event_time] >= window.start) & (frame[data.event_time] < window.end)]


def _overlaps(shard_key: str, window: Window) -> bool:
    shard = Window.from_key(shard_key.rsplit("/", 1)[1].rsplit("-", 1)[0])
    return shard.start < window.end and shard.end > window.start


def labelled_rows(rows: pd.DataFrame, data: TableSpec, as_of: datetime) -> pd.DataFrame:
    """The rows whose outcome had arrived by `as_of`."""
    return rows[known_at(rows, data) <= pd.Timestamp(utc(as_of))].reset_index(drop=True)


def shard_key(pipeline: Pipeline, window: Window, as_of: datetime) -> str:
    """Key of one shard: it names everything the shard is made from.

    A window whose outcomes have all had their time is settled, and the same for every later `as_of`.
    """
    data = pipeline.spec.data
    settled = window.end + timedelta(days=data.settled_after_days) <= as_of
    inputs = {
        "source": _fingerprint(pipeline, window),
        "data": data.model_dump(mode="json"),
        "code": pipeline.code_digest,
        "as_of": None if settled else as_of.isoformat(),
        "format": 1,
    }
    return f"staged/{pipeline.name}/shards/{window.key}-{digest_json(inputs)[:16]}"


def _fingerprint(pipeline: Pipeline, window: Window) -> str:
    """Of what the window is made from, where the source can tell that; else of the whole source."""
    source = pipeline.source
    if isinstance(source, WindowedSource):
        return source.window_fingerprint(window.start, window.end)
    return source.fingerprint()


def set_key(pipeline_name: str, window: Window, as_of: datetime, shards: tuple[str, ...]) -> str:
    """Key of a staged data set."""
    return f"staged/{pipeline_name}/sets/{window.key}-{digest_json([as_of.isoformat(), *shards])[:16]}"


def count_reasons(artifact: Artifact) -> dict[str, int]:
    return {str(reason): int(count) for reason, count in artifact.summary["reasons"].items()}
