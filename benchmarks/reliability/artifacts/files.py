"""Files of artifacts that run code, fill memory or are not what they are called."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability.artifacts import payloads
from benchmarks.reliability.artifacts.attack import Attack, with_files, with_manifest
from benchmarks.reliability.artifacts.world import CHECKPOINT, EVALUATION, NEW, SHARD_KEY, Document, World, redigest
from millrace.dataset import SHARD
from millrace.package import CARD, PROBE, REFERENCE, SCALE, SPEC, WEIGHTS
from ray_jobs.train.checkpoints.index import INDEX

_TENSORS = "rank-00000-0000.safetensors"


def file_attacks(marker: Path) -> Iterator[Attack]:
    """All of them; `marker` is what a payload that runs makes."""
    yield from _weights(marker)
    yield from _documents(marker)
    yield from _extra_files(marker)
    yield from _checkpoints(marker)
    yield from _tables(marker)


def _weights(marker: Path) -> Iterator[Attack]:
    wrong = "holds no weights that can be used"
    for name, content in (payloads.pickles(marker) | payloads.bombs()).items():
        yield with_files(f"weights: {name}", "serve", NEW, {WEIGHTS: content}, wrong)
    for name, content in payloads.headers(marker).items():
        yield with_files(
            f"safetensors: {name}", "serve", NEW, {WEIGHTS: content}, wrong, "header cannot be read", "Missing key"
        )

    def changed(**change: Any) -> Callable[[World], Mapping[str, bytes]]:
        return lambda world: {WEIGHTS: payloads.state(_state(world), **change)}

    nan = {"layer.weight": torch.full((1, 2), float("nan"))}
    yield with_files("weights: NaN", "serve", NEW, changed(**nan), "holds NaN")
    inf = {"layer.weight": torch.full((1, 2), float("inf"))}
    yield with_files("weights: infinity", "serve", NEW, changed(**inf), "answers its probe rows differently")
    zero = {"layer.weight": torch.zeros(1, 2)}
    yield with_files("weights: of another model", "serve", NEW, changed(**zero), "answers its probe rows differently")
    wide = {"layer.weight": torch.zeros(1, 3)}
    yield with_files("weights: another shape", "evaluate", NEW, changed(**wide), "size mismatch")
    double = {"layer.weight": torch.zeros(1, 2, dtype=torch.float64)}
    yield with_files("weights: another type", "serve", NEW, changed(**double), "is torch.float64")
    yield with_files("weights: one lacks", "serve", NEW, changed(**{"layer.bias": None}), "Missing key")
    yield with_files("weights: one too many", "serve", NEW, changed(more=torch.zeros(1)), "Unexpected key")


def _state(world: World) -> dict[str, torch.Tensor]:
    return world.trained().whole_state()["model"]


def _edited(name: str, edit: Callable[[Document], object]) -> Callable[[World], Mapping[str, bytes]]:
    def files(world: World) -> Mapping[str, bytes]:
        document = json.loads(world.files(NEW)[name])
        edit(document)
        return {name: json.dumps(document).encode()}

    return files


def _documents(marker: Path) -> Iterator[Attack]:
    """JSON of a package."""
    unreadable, wrong = "cannot be read", "is not what a package holds"
    pickled = payloads.pickles(marker)["pickle protocol 5"]
    tagged = f"!!python/object/apply:os.system ['touch {marker}']".encode()
    deep = b'{"rows": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    twice = b'{"mean": 0.0, "std": 1.0, "std": 2.0}'
    for name in (SPEC, SCALE, PROBE):
        yield with_files(f"{name}: a pickle", "serve", NEW, {name: pickled}, unreadable)
        yield with_files(f"{name}: YAML with a Python tag", "serve", NEW, {name: tagged}, unreadable)
        yield with_files(f"{name}: 200,000 levels deep", "serve", NEW, {name: deep}, unreadable)
        yield with_files(f"{name}: 17 MiB", "serve", NEW, {name: b" " * 17 * 2**20}, unreadable)
        yield with_files(f"{name}: a list", "serve", NEW, {name: b"[]"}, wrong, "must be a mapping")
    for content in (
        b'{"mean": NaN, "std": 1.0}',
        b'{"mean": 1e999, "std": 1.0}',
        b'{"mean": ' + b"9" * 5000 + b"}",
        twice,
    ):
        yield with_files(f"{SCALE}: {content[:40].decode()}", "serve", NEW, {SCALE: content}, unreadable)
    for content in (
        b'{"mean": "0", "std": 1.0}', b'{"mean": 0.0, "std": 0.0}', b'{"mean": 0.0}', b'{"mean": 0.0, "std": -1}',
        b'{"mean": 0.0, "std": 1.0, "__class__": "os.system"}',
    ):  # fmt: skip
        yield with_files(f"{SCALE}: {content.decode()}", "serve", NEW, {SCALE: content}, wrong)
    probes: dict[str, tuple[Callable[[Document], object], str]] = {
        "other answers": (lambda probe: probe.update(answers=[0.1] * len(probe["answers"])), "differently"),
        "too few answers": (lambda probe: probe["answers"].pop(), "differently"),
        "answers of answers": (lambda probe: probe.update(answers=[[0.1, 0.9]] * 16), "differently"),
        "answers that are ragged": (lambda probe: probe.update(answers=[[0.1], [0.1, 0.9]]), wrong),
        "no rows": (lambda probe: probe.update(rows=[], answers=[]), wrong),
        "100,000 rows": (lambda probe: probe.update(rows=probe["rows"] * 6250), wrong),
        "rows of lists": (lambda probe: probe["rows"][0].update(delay=[1]), wrong),
        "rows of text": (lambda probe: probe["rows"][0].update(delay="one"), "do not fit"),
        "rows without the features": (lambda probe: probe.update(rows=[{"x": 1}] * 16), "differently"),
        "a loader": (lambda probe: probe.update(loader="os.system"), wrong),
    }
    for name, (edit, reason) in probes.items():
        yield with_files(f"{PROBE}: {name}", "serve", NEW, _edited(PROBE, edit), reason)
    specs: dict[str, tuple[Callable[[Document], object], str]] = {
        "an unknown field": (lambda spec: spec.update(loader_module="os"), "is not known"),
        "another pipeline's": (lambda spec: spec.update(name="other"), "is another pipeline's"),
        "code by path": (lambda spec: spec["model"].update(build="../../x:build"), "model.build"),
        "a source by path": (lambda spec: spec["data"].update(source="/tmp/x:S"), "data.source"),
        "another contract": (lambda spec: spec["data"]["features"].update(more={"kind": "numeric"}), "do not fit"),
        "text for a number": (lambda spec: spec["serving"].update(max_rows="many"), "serving.max_rows"),
    }
    for name, (edit, reason) in specs.items():
        yield with_files(f"{SPEC}: {name}", "serve", NEW, _edited(SPEC, edit), reason)
    yield with_files(f"{CARD}: a pickle", "card", NEW, {CARD: pickled}, "is no text")
    yield with_files("evaluation: a pickle", "evaluation", EVALUATION, {"evaluation.json": pickled}, unreadable)
    yield with_files(
        "evaluation: none", "evaluation", EVALUATION, {"evaluation.json": b'{"window": 1}'}, "no evaluation"
    )


def _extra_files(marker: Path) -> Iterator[Attack]:
    """Files that MLflow or another loader would run, beside those of a package or instead of them."""
    pickled, code = payloads.pickles(marker)["pickle protocol 5"], f"open({str(marker)!r}, 'w').close()".encode()
    flavours: dict[str, tuple[str, dict[str, bytes]]] = {
        "python_function with code": ("{loader_module: evil, code: code}", {"code/evil.py": code}),
        "python_function with a pickled model": ("{loader_module: mlflow.pyfunc.model}", {"python_model.pkl": pickled}),
        "scikit-learn": ("{loader_module: mlflow.sklearn, model_path: model.pkl}", {"model.pkl": pickled}),
        "PyTorch": ("{loader_module: mlflow.pytorch, pickle_module_name: pickle}", {"data/model.pth": pickled}),
        "models from code": ("{loader_module: mlflow.pyfunc.model, model_code_path: m.py}", {"m.py": code}),
    }
    for name, (flavour, files) in flavours.items():
        model = {"MLmodel": f"flavors: {{python_function: {flavour}}}\n".encode()}
        yield with_files(f"MLmodel: {name}", "serve", NEW, model | files, "has other files")
    for name in ("conda.yaml", "requirements.txt", "sitecustomize.py", "model.py", "weights.safetensors.pkl"):
        yield with_files(f"a file too many: {name}", "serve", NEW, {name: code}, "has other files")
    yield with_files("a file too few", "serve", NEW, {PROBE: None}, "has other files")
    instead = {WEIGHTS: None, "weights.pt": pickled}
    yield with_files("weights under another name", "evaluate", NEW, instead, "has other files")


def _checkpoints(marker: Path) -> Iterator[Attack]:
    unreadable, none, unfit = "cannot be read", "is no index of a checkpoint", "is of another model"
    pickled = payloads.pickles(marker)
    for name in ("pickle protocol 5", "torch.save, zip", "torch.save, legacy"):
        yield with_files(f"checkpoint: {name} for an index", "resume", CHECKPOINT, {INDEX: pickled[name]}, unreadable)
    # Bytes of tensors are numbers, whatever they were meant to be: only too few of them can be wrong.
    yield with_files("checkpoint: no tensors", "resume", CHECKPOINT, {_TENSORS: b""}, none)

    def tensor(edit: Callable[[list[Any]], object]) -> Callable[[World], Mapping[str, bytes]]:
        def files(world: World) -> Mapping[str, bytes]:
            document = json.loads(world.files(CHECKPOINT)[INDEX])
            edit(document["tensors"]["model/layer.weight"])
            return {INDEX: json.dumps(document).encode()}

        return files

    def place(chunk: list[Any], at: int, value: Any) -> None:
        chunk[at] = value

    edits: dict[str, tuple[Callable[[list[Any]], object], str]] = {
        "a type of Python's": (lambda row: place(row, 0, "object"), none),
        "a model of another shape": (lambda row: place(row, 1, [2, 1]), none),
        "a chunk outside of its tensor": (lambda row: place(row[2][0], 0, [0, 1]), none),
        "a chunk outside of its file": (lambda row: place(row[2][0], 3, 10**9), none),
        "a chunk before its file": (lambda row: place(row[2][0], 3, -1), none),
        "a chunk of another file": (lambda row: place(row[2][0], 2, 7), none),
        "two chunks in one place": (lambda row: row[2].append(row[2][0]), none),
        "no chunk": (lambda row: row[2].clear(), none),
        "weights of another type": (lambda row: place(row, 0, "I32"), unfit),
    }
    for name, (edit, reason) in edits.items():
        yield with_files(f"checkpoint: {name}", "resume", CHECKPOINT, tensor(edit), reason)

    def renamed(world: World) -> Mapping[str, bytes]:
        return {INDEX: world.files(CHECKPOINT)[INDEX].replace(b"model/layer.weight", b"model/other.weight")}

    yield with_files("checkpoint: another model's", "resume", CHECKPOINT, renamed, unfit)

    def nan(world: World) -> Mapping[str, bytes]:
        files = world.files(CHECKPOINT)
        start = json.loads(files[INDEX])["tensors"]["model/layer.weight"][2][0][3]
        content = files[_TENSORS]
        return {_TENSORS: content[:start] + b"\xff\xff\xff\xff" + content[start + 4 :]}

    yield with_files("checkpoint: NaN in the weights", "resume", CHECKPOINT, nan, "holds NaN")
    positions: dict[str, dict[str, Any]] = {
        "another step": {"step": 3}, "a step below zero": {"step": -1}, "a step of text": {"step": "1"},
        "a step of truth": {"step": True}, "a best step to come": {"best_step": 9},
        "a loss of text": {"best_loss": "0"},
        "a history of text": {"history": "x"}, "a history of lists": {"history": [[1]]},
        "a field too many": {"__class__": "os.system"},
    }  # fmt: skip
    wrong = "does not fit the model"
    for name, change in positions.items():
        yield with_manifest(f"checkpoint: {name}", CHECKPOINT, _extra("position", change), wrong, opener="resume")
    yield with_manifest(
        "checkpoint: a loader of other data",
        CHECKPOINT,
        _extra("loader", {"data": "d" * 64}),
        "is one in other data",
        opener="resume",
    )
    yield with_manifest(
        "checkpoint: a scale with code", CHECKPOINT, _extra("scale", {"__class__": "os"}), wrong, opener="resume"
    )


def _extra(part: str, change: Mapping[str, Any]) -> Callable[[Document], object]:
    def edit(document: Document) -> None:
        document["summary"]["extra"][part].update(change)
        redigest(document)

    return edit


def _tables(marker: Path) -> Iterator[Attack]:
    for name, content in payloads.tables(marker).items():
        wrong = ("holds no table that can be used", "lacks columns")
        yield with_files(f"shard: {name}", "shard", SHARD_KEY, {SHARD: content}, *wrong)
        yield with_files(f"reference: {name}", "reference", NEW, {REFERENCE: content}, *wrong)
