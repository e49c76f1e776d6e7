"""Manifests that lie, signatures of something else, and stores whose files are something else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.reliability.artifacts.attack import UNSIGNED, Attack, with_manifest
from benchmarks.reliability.artifacts.world import CHECKPOINT, NEW, OLD, Document, Signer, World, redigest
from millrace.package import WEIGHTS
from millrace.storage import MANIFEST


def store_attacks() -> Iterator[Attack]:
    """All of them."""
    yield from _manifests()
    yield from _signatures()
    yield from _folders()


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
        yield with_manifest(f"manifest: path {path!r}", NEW, entry(path=path), leaves)
    yield with_manifest("manifest: a path that is a list", NEW, entry(path=["x"]), leaves)
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
        yield with_manifest(f"manifest: a file called {name[:20]!r}", NEW, named(name), "cannot name a file")
    for size in (-1, 1.5, "12", True, None, 2**63, 10**30):
        yield with_manifest(f"manifest: {size!r} bytes", NEW, entry(num_bytes=size), "bytes, 0 to")
    for digest in ("", "0" * 63, "Z" * 64, "A" * 64, 7, None):
        yield with_manifest(f"manifest: digest {str(digest)[:8]!r}", NEW, entry(sha256=digest), "no SHA-256 digest")
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
        yield with_manifest(f"manifest: {name}", NEW, edit, unreadable)
    changes: dict[str, Callable[[Document], object]] = {
        "another summary": lambda document: document["summary"].update(pipeline="other"),
        "another digest": lambda document: document.update(digest="0" * 64),
    }
    for name, change in changes.items():
        yield with_manifest(f"manifest: {name}", NEW, change, "was changed after it was committed")
    for name, document in {
        "a pickle": b"\x80\x05.", "nothing": b"", "half of one": b'{"entries": {', "no UTF-8": b"\xff\xfe",
        "100,000 levels": b"[" * 100_000, "a key twice": b'{"digest": 1, "digest": 2}',
        "XML": b"<!DOCTYPE x SYSTEM 'x'>",
    }.items():  # fmt: skip
        yield Attack(f"manifest: {name}", "serve", _commits(document), (unreadable,))


def _commits(document: bytes) -> Callable[[World, Signer], None]:
    return lambda world, signer: world.commit(NEW, signer, document)


def _signatures() -> Iterator[Attack]:
    """Signed once, and not for this: nothing may be parsed."""

    def once(name: str, change: Callable[[World], bytes], opener: str = "serve") -> Attack:
        def spoil(world: World, _: Signer) -> None:
            (world.folder(NEW) / MANIFEST).write_bytes(change(world))

        return Attack(f"signature: {name}", opener, spoil, UNSIGNED, ("nobody",))

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
    yield on_disk("nothing", instead(_leave), "does not exist")
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
        _leave,
        "is not the one registered",
        opener="registered version",
    )


def _leave(_: World, __: Path) -> None:
    """Change nothing more."""


def _weights_of(world: World, key: str) -> Path:
    return world.folder(key) / str(world.document(key)["entries"][WEIGHTS]["path"])


def _copied(world: World, path: Path) -> Path:
    """A file outside of the artifact with the very bytes that were in it."""
    target = world.root / "copy"
    target.write_bytes(_weights_of(World(world.home, world.home), NEW).read_bytes())
    return target
