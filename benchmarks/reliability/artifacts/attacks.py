"""The hostile artifacts: what each is, how production opens it, and what its refusal says."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability.artifacts import payloads
from benchmarks.reliability.artifacts.world import (
    CHECKPOINT,
    EVALUATION,
    NEW,
    OLD,
    SHARD_KEY,
    Document,
    Signer,
    World,
    redigest,
)  # fmt: skip
from millrace.dataset import SHARD
from millrace.package import CARD, PROBE, REFERENCE, SCALE, SPEC, WEIGHTS
from millrace.storage import MANIFEST

_STATE = "state.safetensors"
_NOBODY = ("nobody",)
_ANYBODY: tuple[Signer, ...] = ("nobody", "a stranger", "the trusted key")
_UNSIGNED = ("is not signed", "by a key that is not trusted", "changed after it was signed")


@dataclass(frozen=True)
class Attack:
    """One hostile artifact. It is tried with each of `signers`; signed by the trusted key (or, where that makes no
    difference, in any case) it must be refused with one of `reasons`, otherwise before anything is parsed."""

    name: str
    opener: str
    spoil: Callable[[World, Signer], None]
    reasons: tuple[str, ...]
    signers: tuple[Signer, ...] = _ANYBODY

    def expected(self, signer: Signer) -> tuple[str, ...]:
        return self.reasons if signer == "the trusted key" else _UNSIGNED


def attacks(root: Path) -> Iterator[Attack]:
    """All of them; `root` is where payloads are to leave their mark, one folder above each world."""
    marker = root / "pwned"
    yield from _weights(marker)
    yield from _documents(marker)
    yield from _extra_files(marker)
    yield from _checkpoints(marker)
    yield from _tables(marker)
    yield from _manifests()
    yield from _signatures()
    yield from _folders()


def _file(
    name: str,
    opener: str,
    key: str,
    files: Mapping[str, bytes | None] | Callable[[World], Mapping[str, bytes]],
    *reasons: str,
) -> Attack:
    """An artifact with files of the attacker's, and a manifest that fits them."""

    def spoil(world: World, signer: Signer) -> None:
        world.forge(key, signer, files(world) if callable(files) else files)

    return Attack(name, opener, spoil, reasons)


def _weights(marker: Path) -> Iterator[Attack]:
    wrong = "holds no weights that can be used"
    for name, content in (payloads.pickles(marker) | payloads.bombs()).items():
        yield _file(f"weights: {name}", "serve", NEW, {WEIGHTS: content}, wrong)
    for name, content in payloads.headers(marker).items():
        yield _file(f"safetensors: {name}", "serve", NEW, {WEIGHTS: content}, wrong, "size mismatch", "Missing key")

    def changed(**change: Any) -> Callable[[World], Mapping[str, bytes]]:
        return lambda world: {WEIGHTS: payloads.state(_state(world), **change)}

    nan = {"layer.weight": torch.full((1, 2), float("nan"))}
    yield _file("weights: NaN", "serve", NEW, changed(**nan), "holds NaN")
    inf = {"layer.weight": torch.full((1, 2), float("inf"))}
    yield _file("weights: infinity", "serve", NEW, changed(**inf), "answers its probe rows differently")
    zero = {"layer.weight": torch.zeros(1, 2)}
    yield _file("weights: of another model", "serve", NEW, changed(**zero), "answers its probe rows differently")
    wide = {"layer.weight": torch.zeros(1, 3)}
    yield _file("weights: another shape", "evaluate", NEW, changed(**wide), "size mismatch")
    double = {"layer.weight": torch.zeros(1, 2, dtype=torch.float64)}
    yield _file("weights: another type", "serve", NEW, changed(**double), "is torch.float64")
    yield _file("weights: one lacks", "serve", NEW, changed(**{"layer.bias": None}), "Missing key")
    yield _file("weights: one too many", "serve", NEW, changed(more=torch.zeros(1)), "Unexpected key")


def _state(world: World) -> dict[str, torch.Tensor]:
    return dict(world.trained()[0].state_dict())


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
        yield _file(f"{name}: a pickle", "serve", NEW, {name: pickled}, unreadable)
        yield _file(f"{name}: YAML with a Python tag", "serve", NEW, {name: tagged}, unreadable)
        yield _file(f"{name}: 200,000 levels deep", "serve", NEW, {name: deep}, unreadable)
        yield _file(f"{name}: 17 MiB", "serve", NEW, {name: b" " * 17 * 2**20}, unreadable)
        yield _file(f"{name}: a list", "serve", NEW, {name: b"[]"}, wrong, "must be a mapping")
    for content in (
        b'{"mean": NaN, "std": 1.0}',
        b'{"mean": 1e999, "std": 1.0}',
        b'{"mean": ' + b"9" * 5000 + b"}",
        twice,
    ):
        yield _file(f"{SCALE}: {content[:40].decode()}", "serve", NEW, {SCALE: content}, unreadable)
    for content in (
        b'{"mean": "0", "std": 1.0}', b'{"mean": 0.0, "std": 0.0}', b'{"mean": 0.0}', b'{"mean": 0.0, "std": -1}',
        b'{"mean": 0.0, "std": 1.0, "__class__": "os.system"}',
    ):  # fmt: skip
        yield _file(f"{SCALE}: {content.decode()}", "serve", NEW, {SCALE: content}, wrong)
    probes: dict[str, tuple[Callable[[Document], object], str]] = {
        "other answers": (lambda probe: probe.update(answers=[0.1] * len(probe["answers"])), "differently"),
        "too few answers": (lambda probe: probe["answers"].pop(), "differently"),
        "answers of answers": (lambda probe: probe.update(answers=[[0.1, 0.9]] * 16), "differently"),
        "answers that are ragged": (lambda probe: probe.update(answers=[[0.1], [0.1, 0.9]]), "cannot be read"),
        "no rows": (lambda probe: probe.update(rows=[], answers=[]), wrong),
        "100,000 rows": (lambda probe: probe.update(rows=probe["rows"] * 6250), wrong),
        "rows of lists": (lambda probe: probe["rows"][0].update(delay=[1]), wrong),
        "rows of text": (lambda probe: probe["rows"][0].update(delay="one"), "do not fit"),
        "rows without the features": (lambda probe: probe.update(rows=[{"x": 1}] * 16), "differently"),
        "a loader": (lambda probe: probe.update(loader="os.system"), wrong),
    }
    for name, (edit, reason) in probes.items():
        yield _file(f"{PROBE}: {name}", "serve", NEW, _edited(PROBE, edit), reason)
    specs: dict[str, tuple[Callable[[Document], object], str]] = {
        "an unknown field": (lambda spec: spec.update(loader_module="os"), "is not known"),
        "another pipeline's": (lambda spec: spec.update(name="other"), "is another pipeline's"),
        "code by path": (lambda spec: spec["model"].update(build="../../x:build"), "model.build"),
        "a source by path": (lambda spec: spec["data"].update(source="/tmp/x:S"), "data.source"),
        "another contract": (lambda spec: spec["data"]["features"].update(more={"kind": "numeric"}), "do not fit"),
        "text for a number": (lambda spec: spec["serving"].update(max_rows="many"), "serving.max_rows"),
    }
    for name, (edit, reason) in specs.items():
        yield _file(f"{SPEC}: {name}", "serve", NEW, _edited(SPEC, edit), reason)
    yield _file(f"{CARD}: a pickle", "card", NEW, {CARD: pickled}, "is no text")
    yield _file("evaluation: a pickle", "evaluation", EVALUATION, {"evaluation.json": pickled}, unreadable)
    yield _file("evaluation: none", "evaluation", EVALUATION, {"evaluation.json": b'{"window": 1}'}, "no evaluation")


def _extra_files(marker: Path) -> Iterator[Attack]:
    """Files that MLflow or another loader would run, beside those of a package or instead of them."""
    pickled, code = payloads.pickles(marker)["pickle protocol 5"], f"open({str(marker)!r}, 'w')".encode()
    flavours: dict[str, tuple[str, dict[str, bytes]]] = {
        "python_function with code": ("{loader_module: evil, code: code}", {"code/evil.py": code}),
        "python_function with a pickled model": ("{loader_module: mlflow.pyfunc.model}", {"python_model.pkl": pickled}),
        "scikit-learn": ("{loader_module: mlflow.sklearn, model_path: model.pkl}", {"model.pkl": pickled}),
        "PyTorch": ("{loader_module: mlflow.pytorch, pickle_module_name: pickle}", {"data/model.pth": pickled}),
        "models from code": ("{loader_module: mlflow.pyfunc.model, model_code_path: m.py}", {"m.py": code}),
    }
    for name, (flavour, files) in flavours.items():
        model = {"MLmodel": f"flavors: {{python_function: {flavour}}}\n".encode()}
        yield _file(f"MLmodel: {name}", "serve", NEW, model | files, "has other files")
    for name in ("conda.yaml", "requirements.txt", "sitecustomize.py", "model.py", "weights.safetensors.pkl"):
        yield _file(f"a file too many: {name}", "serve", NEW, {name: code}, "has other files")
    yield _file("a file too few", "serve", NEW, {PROBE: None}, "has other files")
    instead = {WEIGHTS: None, "weights.pt": pickled}
    yield _file("weights under another name", "evaluate", NEW, instead, "has other files")


def _checkpoints(marker: Path) -> Iterator[Attack]:
    unusable, unfit = "holds no weights that can be used", "does not fit the model"
    pickled = payloads.pickles(marker)
    for name in ("pickle protocol 5", "torch.save, zip", "torch.save, legacy"):
        yield _file(f"checkpoint: {name}", "resume", CHECKPOINT, {_STATE: pickled[name]}, unusable)

    def changed(**change: Any) -> Callable[[World], Mapping[str, bytes]]:
        from safetensors.torch import load

        return lambda world: {_STATE: payloads.state(load(world.files(CHECKPOINT)[_STATE]), **change)}

    wide, weight = torch.zeros(7, 7), torch.zeros(1, 2)
    for name, change in {
        "a model of another shape": {"model/layer.weight": wide},
        "best weights of another shape": {"best/layer.weight": wide},
        "best weights of another type": {"best/layer.weight": weight.double()},
        "an optimizer of another shape": {"optimizer/0/exp_avg": wide},
        "an optimizer of another model": {"optimizer/99/exp_avg": weight},
        "an optimizer without numbers": {"optimizer/x/exp_avg": weight},
    }.items():
        yield _file(f"checkpoint: {name}", "resume", CHECKPOINT, changed(**change), unfit)
    nan = {"optimizer/0/exp_avg": weight * float("nan")}
    yield _file("checkpoint: NaN in the optimizer", "resume", CHECKPOINT, changed(**nan), "holds NaN")
    for name, edit in {
        "another epoch": {"epoch": 3}, "an epoch below zero": {"epoch": -1}, "an epoch of text": {"epoch": "1"},
        "a history of text": {"history": "x"}, "a history of lists": {"history": [[1]]},
        "a loss of text": {"best_loss": "0"}, "a field too many": {"__class__": "os.system"},
    }.items():  # fmt: skip
        yield _manifest_attack(f"checkpoint: {name}", CHECKPOINT, _updates_summary(edit), unfit, opener="resume")


def _tables(marker: Path) -> Iterator[Attack]:
    for name, content in payloads.tables(marker).items():
        wrong = ("holds no table that can be used", "lacks columns")
        yield _file(f"shard: {name}", "shard", SHARD_KEY, {SHARD: content}, *wrong)
        yield _file(f"reference: {name}", "reference", NEW, {REFERENCE: content}, *wrong)


def _manifest_attack(
    name: str, key: str, edit: Callable[[Document], object], *reasons: str, opener: str = "serve"
) -> Attack:
    return Attack(name, opener, lambda world, signer: world.forge(key, signer, {}, edit), reasons)


def _updates_summary(change: Mapping[str, Any]) -> Callable[[Document], None]:
    def edit(document: Document) -> None:
        document["summary"].update(change)
        redigest(document)

    return edit


def _manifests() -> Iterator[Attack]:
    """Manifests that lead elsewhere or are none."""
    leaves, unreadable = "leaves the artifact", "cannot be read"

    def entry(**change: Any) -> Callable[[Document], None]:
        def edit(document: Document) -> None:
            document["entries"][WEIGHTS].update(change)
            redigest(document)

        return edit

    def named(name: str) -> Callable[[Document], None]:
        def edit(document: Document) -> None:
            document["entries"][name] = document["entries"][WEIGHTS] | {"path": f"0123456789ab/{name}"}
            redigest(document)

        return edit

    for path in (
        "../old/weights.safetensors", "0123456789ab/../../old/x", "/etc/passwd", "..", "", "0123456789ab",
        "0123456789ab\\..\\x", "0123456789ab/weights.safetensors\0.txt", "file:///etc/passwd", "s3://bucket/x",
        "0123456789ab//etc/passwd", "~/x", "0123456789ab/spec.json",
    ):  # fmt: skip
        yield _manifest_attack(f"manifest: path {path!r}", NEW, entry(path=path), leaves)
    yield _manifest_attack("manifest: a path that is a list", NEW, entry(path=["x"]), leaves)
    for name in (
        "../x",
        "/etc/cron.d/x",
        "a/../../x",
        "a\\b",
        "a\0b",
        "",
        ".hidden",
        "-rf",
        "a" * 300,
        "\u202etxt.exe",
    ):
        yield _manifest_attack(f"manifest: a file called {name[:20]!r}", NEW, named(name), "cannot name a file")
    for size in (-1, 1.5, "12", True, None, 2**63, 10**30):
        yield _manifest_attack(f"manifest: {size!r} bytes", NEW, entry(num_bytes=size), "bytes, 0 to")
    for digest in ("", "0" * 63, "Z" * 64, "A" * 64, 7, None):
        yield _manifest_attack(f"manifest: digest {str(digest)[:8]!r}", NEW, entry(sha256=digest), "no SHA-256 digest")
    edits: dict[str, Callable[[Document], object]] = {
        "a field too many": lambda document: document.update(loader="os.system"),
        "a field too few": lambda document: document.pop("lineage"),
        "entries in a list": lambda document: document.update(entries=[]),
        "a summary of text": lambda document: document.update(summary="x"),
        "20,000 entries": lambda document: document["entries"].update({f"f{number}": {} for number in range(20_000)}),
        "NaN": lambda document: document["lineage"].update(x=float("nan")),
        "40 levels": lambda document: document["lineage"].update(x=json.loads("[" * 40 + "]" * 40)),
        "17 MiB": lambda document: document["lineage"].update(x="x" * 17 * 2**20),
    }
    for name, edit in edits.items():
        yield _manifest_attack(f"manifest: {name}", NEW, edit, unreadable)
    for name, change in {
        "another summary": lambda document: document["summary"].update(pipeline="other"),
        "another digest": lambda document: document.update(digest="0" * 64),
    }.items():
        yield _manifest_attack(f"manifest: {name}", NEW, change, "was changed after it was committed")
    for name, document in {
        "a pickle": b"\x80\x05.", "nothing": b"", "half of one": b'{"entries": {', "no UTF-8": b"\xff\xfe",
        "100,000 levels": b"[" * 100_000, "a key twice": b'{"digest": 1, "digest": 2}',
        "XML": b"<!DOCTYPE x SYSTEM 'x'>",
    }.items():  # fmt: skip
        yield Attack(
            f"manifest: {name}",
            "serve",
            lambda world, signer, raw=document: world.commit(NEW, signer, raw),
            (unreadable,),
        )


def _commits(document: bytes) -> Callable[[World, Signer], None]:
    return lambda world, signer: world.commit(NEW, signer, document)


def _signatures() -> Iterator[Attack]:
    """Signed once, and not for this: nothing may be parsed."""

    def once(name: str, change: Callable[[World], bytes], opener: str = "serve") -> Attack:
        def spoil(world: World, _: Signer) -> None:
            (world.folder(NEW) / MANIFEST).write_bytes(change(world))

        return Attack(f"signature: {name}", opener, spoil, _UNSIGNED, ("nobody",))

    def replaced(old: bytes, new: bytes) -> Callable[[World], bytes]:
        def change(world: World) -> bytes:
            raw = world.raw(NEW)
            if old not in raw:
                raise AssertionError(f"{old!r} is not in the manifest")
            return raw.replace(old, new, 1)

        return change

    def moved(world: World) -> bytes:
        shutil.rmtree(world.folder(NEW))
        shutil.copytree(world.folder(OLD), world.folder(NEW))
        return world.raw(OLD)

    yield once("an older version under the newer one's key", moved)
    yield once("of a checkpoint", lambda world: world.raw(CHECKPOINT))
    yield once("another summary", replaced(b'"pipeline": "tiny"', b'"pipeline": "evil"'))
    yield once("another lineage", replaced(b'"data": "d"', b'"data": "e"'))
    yield once("another time", replaced(b'"created_at": "20', b'"created_at": "19'))
    yield once("another size", replaced(b'"num_bytes": ', b'"num_bytes": 1'))
    yield once("a space more", replaced(b"{\n", b"{ \n"))
    yield once("a line more", lambda world: world.raw(NEW) + b"\n")
    yield once("a second document", lambda world: world.raw(NEW) + b"{}")
    yield once("sealed twice", lambda world: world.trusted.seal(NEW, world.raw(NEW))[:200] + world.raw(NEW))
    yield once("taken off", lambda world: world.raw(NEW).partition(b"\n")[2])
    yield once("of another kind", replaced(b" ed25519 ", b" none "))
    yield once("by a shared secret", replaced(b" ed25519 ", b" hmac "))
    yield once("of a later format", replaced(b"millrace-signed 1", b"millrace-signed 2"))
    yield once("of zeros", lambda world: _signed_by(world, b"A" * 86 + b"=="))
    yield once("too short", lambda world: _signed_by(world, b"AAAA"))
    yield once("too long", lambda world: _signed_by(world, b"A" * 10_000))
    yield once("in the next line", replaced(b"millrace-signed", b"\nmillrace-signed"))
    yield once("of an empty manifest", lambda world: world.raw(NEW).partition(b"\n")[0])
    yield once("with the name of a trusted key", _renamed)


def _signed_by(world: World, signature: bytes) -> bytes:
    line, _, document = world.raw(NEW).partition(b"\n")
    return b" ".join((*line.split(b" ")[:-1], signature)) + b"\n" + document


def _renamed(world: World) -> bytes:
    """A stranger's signature under a trusted key's name."""
    line, _, document = world.raw(NEW).partition(b"\n")
    forged = world.stranger.seal(NEW, document).partition(b"\n")[0]
    return b" ".join((*line.split(b" ")[:-1], forged.split(b" ")[-1])) + b"\n" + document


def _folders() -> Iterator[Attack]:
    """A whole and signed manifest, over files that are something else."""

    def on_disk(name: str, change: Callable[[World, Path], object], *reasons: str, opener: str = "serve") -> Attack:
        def spoil(world: World, _: Signer) -> None:
            (world.root / "secret").write_bytes(b"root:x:0:0")
            path = world.folder(NEW) / world.document(NEW)["entries"][WEIGHTS]["path"]
            change(world, path)

        return Attack(f"on disk: {name}", opener, spoil, reasons, ("the trusted key",))

    def instead(make: Callable[[World, Path], object]) -> Callable[[World, Path], None]:
        def change(world: World, path: Path) -> None:
            path.unlink()
            make(world, path)

        return change

    def linked_folder(world: World, path: Path) -> None:
        shutil.move(path.parent, world.root / "elsewhere")
        path.parent.symlink_to(world.root / "elsewhere")

    def manifest_by(make: Callable[[Path], object]) -> Callable[[World, Path], None]:
        def change(world: World, _: Path) -> None:
            path = world.folder(NEW) / MANIFEST
            path.unlink()
            make(path)

        return change

    flipped = "differs from its manifest"
    size, link, no_file = "has not the size", "is a link that leads out of it", "cannot be read"
    yield on_disk("a link to /etc/passwd", instead(lambda _, path: path.symlink_to("/etc/passwd")), link)
    yield on_disk("a link to /dev/zero", instead(lambda _, path: path.symlink_to("/dev/zero")), link)
    yield on_disk("a link by ..", instead(lambda _, path: path.symlink_to("../../../../../secret")), link)
    yield on_disk("a link to itself", instead(lambda _, path: path.symlink_to(path)), link, no_file)
    yield on_disk("a link to nothing", instead(lambda _, path: path.symlink_to("/nowhere")), link)
    same = instead(lambda world, path: path.symlink_to(_copied(world, path)))
    yield on_disk("a link to the same bytes elsewhere", same, link)
    yield on_disk("a folder that is a link", linked_folder, link)
    yield on_disk("a hard link to a secret", instead(lambda world, path: os.link(world.root / "secret", path)), size)
    other = instead(lambda world, path: os.link(_weights_of(world, OLD), path))
    yield on_disk("a hard link to another version", other, flipped)
    yield on_disk("a pipe", instead(lambda _, path: os.mkfifo(path)), no_file)
    yield on_disk("a folder", instead(lambda _, path: path.mkdir()), no_file)
    yield on_disk("nothing", instead(lambda *_: None), "does not exist")
    yield on_disk(
        "another byte", lambda _, path: path.write_bytes(path.read_bytes()[:-1] + b"\x99"), "differs from its"
    )
    yield on_disk("cut off", lambda _, path: path.write_bytes(path.read_bytes()[:-1]), size)
    yield on_disk("16 GiB of nothing", lambda _, path: os.truncate(path, 16 * 2**30), size)
    yield on_disk("manifest: a pipe", manifest_by(os.mkfifo), no_file)
    yield on_disk("manifest: a folder", manifest_by(os.mkdir), no_file)
    yield on_disk("manifest: a link", manifest_by(lambda path: path.symlink_to("/etc/passwd")), no_file)
    yield on_disk("manifest: a link to /dev/zero", manifest_by(lambda path: path.symlink_to("/dev/zero")), no_file)
    yield on_disk(
        "an older version for the one that is registered",
        lambda *_: None,
        "is not the one registered",
        opener="registered version",
    )


def _weights_of(world: World, key: str) -> Path:
    return world.folder(key) / str(world.document(key)["entries"][WEIGHTS]["path"])


def _copied(world: World, path: Path) -> Path:
    """A file outside of the artifact with the very bytes that were in it."""
    target = world.root / "copy"
    target.write_bytes(_weights_of(World(world.root.parent / "whole"), NEW).read_bytes())
    return target
