"""A pipeline with everything it keeps in its store, to be spoilt; and how production opens each of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import yaml

from millrace import manifest, parquet, strict_json, weights
from millrace.dataset import SHARD, StagedSet
from millrace.encoding import TableInputs
from millrace.gate import Evaluation, load_evaluation, publish_evaluation
from millrace.loader import Loader, StoreSource
from millrace.package import LabelScale, Predictor, load_predictor, publish_package, reference_sample
from millrace.package_files import card_text
from millrace.pipeline import Pipeline, load_pipeline
from millrace.shards import SampleSet, ShardWriter, open_set, publish
from millrace.signing import Keys
from millrace.storage import MANIFEST, ObjectStore
from millrace.window import Window
from ray_jobs.serve.versions import Target, load_version
from ray_jobs.train.checkpoints.interval import FailureRate
from ray_jobs.train.layout.engine import Engine
from ray_jobs.train.loop import make_engine
from ray_jobs.train.position import Position
from ray_jobs.train.problem import Problem
from ray_jobs.train.rank import Rank
from ray_jobs.train.saver import Saver
from ray_jobs.train.table_problem import table_columns, table_problem, write_table

NEW, OLD = "packages/tiny/new", "packages/tiny/old"
RUN = "checkpoints/tiny/run"
CHECKPOINT = f"{RUN}/g000001-s0000000001"
SAMPLES = "encoded/tiny/training"
WINDOW = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
SHARD_KEY = f"staged/tiny/shards/{WINDOW.key}-{'0' * 16}"
EVALUATION = "evaluations/tiny/e"

#: Who signs what an attacker leaves: nobody, a key of his own, or (he has got hold of it) the trusted key.
Signer = Literal["nobody", "a stranger", "the trusted key"]
Document = dict[str, Any]

_ATTEMPT = "0123456789ab"
_MODEL = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.layer = torch.nn.Linear(len(inputs.numeric) + len(inputs.categorical), inputs.outputs)

    def forward(self, batch):
        return self.layer(torch.cat([batch["numeric"], batch["categorical"].float()], 1))

def build(inputs, options):
    return Tiny(inputs)
"""
_SPEC = {
    "name": "tiny",
    "data": {
        "source": "source:S",
        "event_time": "at",
        "row_id": "id",
        "features": {
            "delay": {"kind": "numeric", "min": -10.0, "max": 100.0},
            "carrier": {"kind": "categorical", "values": ["AA", "UA"]},
        },
        "label": {"column": "late", "kind": "binary"},
    },
    "evaluation": {"metric": "roc_auc"},
}


@dataclass(frozen=True)
class World:
    """One store, and the keys and the pipeline that belong to it in the folder `home`."""

    root: Path
    home: Path

    @classmethod
    def make(cls, root: Path) -> World:
        """A pipeline with two packages, a checkpoint, a shard and an evaluation, all signed."""
        world = cls(root, root)
        folder = root / "pipelines" / "tiny"
        folder.mkdir(parents=True)
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(_SPEC))
        (folder / "model.py").write_text(_MODEL)
        world.trusted.create()
        world.stranger.create()
        for seed, key in enumerate((OLD, NEW)):
            torch.manual_seed(seed)
            world._publish(key)
        with ShardWriter(root / "written", table_columns(world.pipeline.spec.table), samples_per_shard=8) as writer:
            write_table(writer, rows(), world.pipeline.spec.table, LabelScale())
        publish(world.store, SAMPLES, writer.files)
        saver = world.saver(world.trained())
        saver.resume()
        saver.save(Position(1, 0.5, 1, 1, history=[{"step": 1.0}]))
        saver.close()
        world.store.publish(SHARD_KEY, {SHARD: parquet.write(rows())})
        publish_evaluation(world.store, EVALUATION, Evaluation(WINDOW, 2, {"challenger": {}}, {}, (), None, None))
        return world

    def copy(self, root: Path) -> World:
        """A store of its own in another folder, with the same in it."""
        shutil.copytree(self.objects, root / "objects")
        return World(root, self.home)

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def trusted(self) -> Keys:
        return Keys(self.home / "keys" / "signing.key")

    @property
    def stranger(self) -> Keys:
        return Keys(self.home / "stranger" / "signing.key")

    @property
    def store(self) -> ObjectStore:
        return ObjectStore(str(self.objects), self.trusted)

    @property
    def pipeline(self) -> Pipeline:
        return load_pipeline("tiny", self.home / "pipelines")

    def folder(self, key: str) -> Path:
        return self.objects / key

    def document(self, key: str) -> Document:
        """What the manifest of `key` says."""
        document: Document = json.loads(self.raw(key).partition(b"\n")[2])
        return document

    def raw(self, key: str) -> bytes:
        return (self.folder(key) / MANIFEST).read_bytes()

    def files(self, key: str) -> dict[str, bytes]:
        """The files of `key`, by name."""
        entries = self.document(key)["entries"]
        return {name: (self.folder(key) / entry["path"]).read_bytes() for name, entry in entries.items()}

    def trained(self) -> Engine:
        """A module of the pipeline after one step, with its optimizer."""
        engine = make_engine(self.pipeline, self.problem, Rank(0, 1, torch.device("cpu")))
        engine.step({"numeric": torch.ones(2, 1), "categorical": torch.ones(2, 1)}, torch.ones(2), 0.001)
        return engine

    def saver(self, engine: Engine) -> Saver:
        """The checkpoints of a run of it."""
        loader = Loader(self.problem.training, StoreSource(self.store), batch_size=4, seed=0)
        return Saver(engine, loader, self.store, RUN, every=None, rate=FailureRate(), prove=lambda: None)

    @property
    def problem(self) -> Problem:
        samples = _samples(self.home)
        return table_problem(self.pipeline.spec.table, self.inputs, samples, samples)

    @property
    def inputs(self) -> TableInputs:
        return TableInputs.shaped(self.pipeline.spec.table)

    def forge(
        self,
        key: str,
        signer: Signer,
        files: Mapping[str, bytes | None] = {},
        edit: Callable[[Document], object] = lambda document: None,
    ) -> None:
        """Leave an artifact under `key` with `files` in place of its own (None: without it) and a manifest that fits.

        `edit` changes the manifest afterwards, before it is signed.
        """
        content = {name: raw for name, raw in (self.files(key) | dict(files)).items() if raw is not None}
        document = self.document(key)
        shutil.rmtree(self.folder(key))
        document["entries"] = {}
        for name, raw in content.items():
            path = self.folder(key) / _ATTEMPT / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
            document["entries"][name] = {
                "path": f"{_ATTEMPT}/{name}",
                "num_bytes": len(raw),
                "sha256": hashlib.sha256(raw).hexdigest(),
            }
        redigest(document)
        edit(document)
        self.commit(key, signer, json.dumps(document).encode())

    def commit(self, key: str, signer: Signer, document: bytes) -> None:
        """Write `document` as the manifest of `key`."""
        sealed = document
        if signer != "nobody":
            sealed = (self.trusted if signer == "the trusted key" else self.stranger).seal(key, document)
        (self.folder(key) / MANIFEST).write_bytes(sealed)

    def _publish(self, key: str) -> None:
        spec = self.pipeline.spec
        module = self.pipeline.build_model(TableInputs.shaped(spec.table), {}).eval()
        publish_package(
            self.store,
            key,
            predictor=Predictor(spec, module, LabelScale()),
            reference=rows(),
            card="# tiny",
            lineage={"data": "d"},
            metrics={"validation_roc_auc": 0.5},
        )


@lru_cache(maxsize=1)
def _samples(home: Path) -> SampleSet:
    """Of the world that nobody spoils; opened once, so that a watched opener does not parse their manifest."""
    world = World(home, home)
    return open_set(world.store, SAMPLES)


def rows() -> pd.DataFrame:
    """Rows of the pipeline."""
    times = pd.date_range(WINDOW.start, periods=20, freq="h")
    number = np.arange(20)
    return pd.DataFrame(
        {"at": times, "id": number, "delay": number / 2, "carrier": ["AA", "UA"] * 10, "late": number % 2 * 1.0}
    )


def redigest(document: Document) -> None:
    """Give the manifest the digest that belongs to what it says."""
    digests = {name: entry["sha256"] for name, entry in document["entries"].items()}
    document["digest"] = manifest.digest_json({"entries": digests, "summary": document["summary"]})


# How production opens them


def _serve(world: World) -> object:
    # Whoever can change the store may have changed the registry too: the digest that is asked for is what is there.
    digest = ""
    try:
        if (world.folder(NEW) / MANIFEST).is_file():  # a pipe would be waited for
            digest = world.document(NEW)["digest"]
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        pass
    return load_version(Target("2", NEW, digest), world.store, world.pipeline)


def _resume(world: World) -> object:
    saver = world.saver(world.trained())
    try:
        return saver.resume()
    finally:
        saver.close()


def _read_shard(world: World) -> object:
    staged = StagedSet("tiny", "set", "d", WINDOW, WINDOW.end, (SHARD_KEY,), 20, 0, 0, {})
    return staged.read(world.store, world.pipeline.spec.table, WINDOW, ["late"])


OPENERS: Mapping[str, Callable[[World], object]] = {
    "serve": _serve,
    "registered version": lambda world: load_version(
        Target("2", NEW, world.store.get(OLD).digest), world.store, world.pipeline
    ),
    "evaluate": lambda world: load_predictor(world.store.get(NEW), world.pipeline),
    "reference": lambda world: reference_sample(world.store.get(NEW)),
    "card": lambda world: card_text(world.store.get(NEW)),
    "resume": _resume,
    "shard": _read_shard,
    "evaluation": lambda world: load_evaluation(world.store.get(EVALUATION)),
}


@contextmanager
def watched() -> Iterator[list[str]]:
    """The names of the parsers that were given a byte inside the block."""
    import pyarrow.parquet as pq
    import safetensors.torch

    called: list[str] = []
    places: list[tuple[Any, str]] = [
        (strict_json, "parse"), (weights, "load"), (safetensors.torch, "load"), (parquet, "read"), (pq, "ParquetFile"),
    ]  # fmt: skip
    originals = [getattr(place, name) for place, name in places]

    def recording(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            # A claim is what the opener has just written itself.
            if not any(isinstance(each, str) and "/writers/" in each for each in args):
                called.append(name)
            return original(*args, **kwargs)

        return call

    for (place, name), original in zip(places, originals, strict=True):
        setattr(place, name, recording(f"{place.__name__}.{name}", original))
    try:
        yield called
    finally:
        for (place, name), original in zip(places, originals, strict=True):
            setattr(place, name, original)
