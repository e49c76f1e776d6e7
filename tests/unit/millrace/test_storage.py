"""Artifacts are whole or absent, whoever writes at the same time and whoever is killed in between."""

from __future__ import annotations

import errno
import json
import pickle
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import storage
from millrace.errors import ArtifactError, DigestError, ServiceError, SettingsError
from millrace.storage import (
    MANIFEST,
    Artifact,
    Content,
    Entry,
    ObjectStore,
    canonical_json,
    digest_bytes,
    digest_file,
    digest_json,
    write_atomically,
)
from tests.full_disk import run_on_full_disk

BOTH = pytest.mark.parametrize("kind", ["folder", "memory"])


@pytest.fixture(scope="module")
def new_url(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The URL of an empty store: a folder, or one that behaves as an object store does."""

    def make(kind: str) -> str:
        return str(tmp_path_factory.mktemp("store")) if kind == "folder" else f"memory://{uuid.uuid4().hex}"

    return make


def files_in(url: str) -> dict[str, bytes]:
    """Everything that lies in a store, by key."""
    fs, root = fsspec.core.url_to_fs(url)
    return {path.removeprefix(root).lstrip("/"): fs.cat_file(path) for path in fs.find(root)}


def overwrite(url: str, key: str, content: bytes) -> None:
    fs, root = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{root}/{key}", content)


class Killed(BaseException):
    """The end of a process: nothing may catch it to tidy up."""


class FragileStore(ObjectStore):
    """Dies before its `fatal`-th write."""

    fatal = 0

    def _count(self) -> None:
        if self.fatal == 0:
            raise Killed
        self.fatal -= 1

    def _put(self, key: str, path: str, content: Content) -> Entry:
        self._count()
        return super()._put(key, path, content)

    def _create(self, key: str, content: bytes) -> bool:
        self._count()
        return super()._create(key, content)

    def _remove(self, prefix: str) -> None:
        self._count()
        super()._remove(prefix)


class SteppedStore(ObjectStore):
    """Waits for its turn before every write."""

    turns: Iterator[None]

    def _put(self, key: str, path: str, content: Content) -> Entry:
        next(self.turns)
        return super()._put(key, path, content)

    def _create(self, key: str, content: bytes) -> bool:
        next(self.turns)
        return super()._create(key, content)

    def _remove(self, prefix: str) -> None:
        next(self.turns)
        super()._remove(prefix)


def interleaved(url: str, contents: list[Mapping[str, bytes]], order: list[int]) -> list[Artifact]:
    """Publish each of `contents` under one key, a thread each; `order` says who makes the next write."""
    asks, answers = [threading.Semaphore(0) for _ in contents], threading.Semaphore(0)
    alive = [True] * len(contents)
    results: list[Artifact | BaseException | None] = [None] * len(contents)

    def turns(writer: int) -> Iterator[None]:
        while True:
            answers.release()
            asks[writer].acquire()
            yield

    def work(writer: int) -> None:
        store = SteppedStore(url)
        store.turns = turns(writer)
        try:
            results[writer] = store.publish("a/key", contents[writer], summary={"writer": writer})
        except BaseException as error:
            results[writer] = error
        alive[writer] = False
        answers.release()

    threads = [threading.Thread(target=work, args=(writer,), daemon=True) for writer in range(len(contents))]
    for thread in threads:
        thread.start()
        assert answers.acquire(timeout=20)
    remaining = iter(order)
    while any(alive):
        wished = next(remaining, 0) % len(contents)
        writer = wished if alive[wished] else alive.index(True)
        asks[writer].release()
        assert answers.acquire(timeout=20)
    for result in results:
        if not isinstance(result, Artifact):
            raise AssertionError(f"a publisher ended with {result!r}")
    return results  # type: ignore[return-value]


# What is published


@BOTH
def test_what_was_published_is_read_again(kind: str, new_url: Callable[[str], str], tmp_path: Path) -> None:
    url = new_url(kind)
    source = tmp_path / "weights.bin"
    source.write_bytes(b"w" * 1000)
    made = ObjectStore(url).publish("a/b", {"x/weights": source, "t": b"text"}, summary={"n": 1}, lineage={"by": "me"})
    found = ObjectStore(url + "/").find("a/b")
    assert found is not None
    assert (found.read("x/weights"), found.read("t")) == (b"w" * 1000, b"text")
    assert (found.summary, found.lineage, found.digest) == ({"n": 1}, {"by": "me"}, made.digest)
    assert found.num_bytes == 1004
    assert {name: entry.num_bytes for name, entry in found.entries.items()} == {"x/weights": 1000, "t": 4}
    assert datetime.fromisoformat(found.created_at).tzinfo is not None


def test_what_json_cannot_hold_is_kept_as_it_will_be_read(tmp_path: Path) -> None:
    summary = {"counts": {1: "a", 10: "b", 2: "c"}, "pair": (1, 2), "at": datetime(2024, 1, 1, tzinfo=UTC)}
    made = ObjectStore(str(tmp_path)).publish("k", {}, summary=summary)
    assert made.summary == {
        "counts": {"1": "a", "10": "b", "2": "c"},
        "pair": [1, 2],
        "at": "2024-01-01 00:00:00+00:00",
    }


@BOTH
def test_publishing_again_returns_what_is_there(kind: str, new_url: Callable[[str], str]) -> None:
    url = new_url(kind)
    first = ObjectStore(url).publish("k", {"f": b"1"})
    before = files_in(url)
    second = ObjectStore(url).publish("k", {"f": b"2"})
    assert second.digest == first.digest
    assert second.read("f") == b"1"
    assert files_in(url) == before, "the loser leaves nothing behind"


@BOTH
def test_an_artifact_without_files_may_be_published_twice(kind: str, new_url: Callable[[str], str]) -> None:
    store = ObjectStore(new_url(kind))
    assert store.publish("k", {}, summary={"a": 1}).digest == store.publish("k", {}, summary={"a": 1}).digest


def test_the_digest_names_the_content(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    one = store.publish("one", {"f": b"1", "g": b"2"}, summary={"a": 1, "b": 2}, lineage={"run": "x"})
    same = store.publish("two", {"g": b"2", "f": b"1"}, summary={"b": 2, "a": 1}, lineage={"run": "y"})
    assert one.digest == same.digest
    others = [
        store.publish("three", {"f": b"1", "g": b"3"}, summary={"a": 1, "b": 2}),
        store.publish("four", {"f": b"1", "h": b"2"}, summary={"a": 1, "b": 2}),
        store.publish("five", {"f": b"1", "g": b"2"}, summary={"a": 1, "b": 3}),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 4


def test_a_store_and_its_artifacts_travel_between_processes(tmp_path: Path) -> None:
    artifact = ObjectStore(str(tmp_path)).publish("k", {"f": b"1"})
    assert pickle.loads(pickle.dumps(artifact)).read("f") == b"1"


# Whole or absent


@BOTH
@given(order=st.lists(st.integers(0, 1), max_size=8), files=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_any_interleaving_of_two_publishers_leaves_one_whole_artifact(
    kind: str, order: list[int], files: int, new_url: Callable[[str], str]
) -> None:
    url = new_url(kind)
    contents = [{f"f{number}": f"{writer}-{number}".encode() for number in range(files)} for writer in range(2)]
    one, two = interleaved(url, contents, order)
    found = ObjectStore(url).get("a/key")
    assert one.digest == two.digest == found.digest, "both are told of the same artifact"
    winner = found.summary["writer"]
    assert {name: found.read(name) for name in found.entries} == contents[winner]
    assert len(files_in(url)) == files + 1, "the manifest and its files, nothing of the loser"


@BOTH
@pytest.mark.parametrize("fatal", [0, 1, 2])
def test_a_publisher_killed_before_its_manifest_leaves_nothing_visible(
    kind: str, fatal: int, new_url: Callable[[str], str]
) -> None:
    url = new_url(kind)
    fragile = FragileStore(url)
    fragile.fatal = fatal
    with pytest.raises(Killed):
        fragile.publish("k", {"f": b"1", "g": b"2"})
    store = ObjectStore(url)
    assert store.find("k") is None
    again = store.publish("k", {"f": b"3", "g": b"4"})
    assert (again.read("f"), again.read("g")) == (b"3", b"4")


def test_a_loser_killed_before_it_tidied_up_harms_nobody(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    store.publish("k", {"f": b"1"})
    fragile = FragileStore(str(tmp_path))
    fragile.fatal = 2
    with pytest.raises(Killed):
        fragile.publish("k", {"f": b"2"})
    assert store.get("k").read("f") == b"1"


@pytest.mark.parametrize("call", ["link", "fsync"])
def test_on_a_disk_a_half_written_manifest_is_never_seen(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, call, die)
        with pytest.raises(Killed):
            ObjectStore(str(tmp_path)).publish("k", {}, summary={"long": "x" * 10_000})
    assert ObjectStore(str(tmp_path)).find("k") is None
    assert ObjectStore(str(tmp_path)).publish("k", {}, summary={"a": 1}).summary == {"a": 1}


@BOTH
def test_of_many_publishers_at_once_one_wins(kind: str, new_url: Callable[[str], str]) -> None:
    url, barrier = new_url(kind), threading.Barrier(8)

    def publish(writer: int) -> Artifact:
        barrier.wait(20)
        return ObjectStore(url).publish("k", {"f": str(writer).encode()})

    with ThreadPoolExecutor(8) as pool:
        artifacts = list(pool.map(publish, range(8)))
    assert len({artifact.digest for artifact in artifacts}) == 1
    assert len({artifact.read("f") for artifact in artifacts}) == 1
    assert len(files_in(url)) == 2


# What was changed or is absent


@BOTH
@given(position=st.integers(0, 99), flip=st.integers(1, 255))
@settings(max_examples=15, deadline=None)
def test_a_changed_byte_is_found_before_anyone_parses_it(
    kind: str, position: int, flip: int, new_url: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    url, cache = new_url(kind), tmp_path_factory.mktemp("cache")
    artifact = ObjectStore(url).publish("k", {"f": bytes(range(100))})
    content = bytearray(range(100))
    content[position] ^= flip
    overwrite(url, f"k/{artifact.entries['f'].path}", bytes(content))
    for read in (lambda: artifact.read("f"), lambda: artifact.local("f", cache)):
        with pytest.raises(DigestError) as caught:
            read()
        assert caught.value.what.endswith("/k: 'f' differs from its manifest")
        assert caught.value.got == f"'sha256 {digest_bytes(bytes(content))}'"
        assert caught.value.allowed == f"sha256 {artifact.entries['f'].sha256}"
        assert caught.value.next == "delete the prefix k and run the step again"
    assert list(cache.iterdir()) == []


def tampered(url: str, change: Callable[[dict[str, Any]], object]) -> None:
    ObjectStore(url).publish("k", {"f": b"1"}, summary={"rows": 3})
    document = json.loads(files_in(url)[f"k/{MANIFEST}"])
    change(document)
    overwrite(url, f"k/{MANIFEST}", json.dumps(document).encode())


@BOTH
@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/etc/passwd", ".."])
def test_a_manifest_that_leaves_its_artifact_is_refused(kind: str, path: str, new_url: Callable[[str], str]) -> None:
    url = new_url(kind)
    tampered(url, lambda document: document["entries"]["f"].update(path=path))
    with pytest.raises(ArtifactError) as caught:
        ObjectStore(url).find("k")
    assert caught.value.what == f"manifest of {url}/k cannot be read"
    assert path in (caught.value.got or "")
    assert "leaves the artifact" in (caught.value.got or "")


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["summary"].update(rows=4),
        lambda document: document["entries"]["f"].update(sha256=digest_bytes(b"2")),
        lambda document: document["entries"].update(
            g=document["entries"]["f"] | {"path": document["entries"]["f"]["path"].replace("/f", "/g")}
        ),
        lambda document: document.update(digest=digest_bytes(b"")),
    ],
)
def test_a_manifest_that_was_changed_is_refused(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    tampered(str(tmp_path), change)
    with pytest.raises(DigestError) as caught:
        ObjectStore(str(tmp_path)).find("k")
    assert caught.value.what == f"manifest of {tmp_path}/k was changed after it was committed"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{}", b"\xff", b'{"entries": []}', b'{"entries": {"f": {"x": 1}}}'])
def test_a_manifest_that_is_none_is_refused(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / MANIFEST).write_bytes(raw)
    with pytest.raises(ArtifactError, match=r"manifest of .*/k cannot be read"):
        ObjectStore(str(tmp_path)).find("k")


@BOTH
def test_what_is_not_there_is_said_to_be_absent(kind: str, new_url: Callable[[str], str]) -> None:
    url = new_url(kind)
    store = ObjectStore(url)
    assert store.find("k") is None
    with pytest.raises(ArtifactError) as caught:
        store.get("k")
    assert str(caught.value) == f"no artifact {url}/k\n  next: run the step that makes it"
    artifact = store.publish("k", {"f": b"1", "g": b"2"})
    with pytest.raises(ArtifactError) as caught:
        artifact.read("h")
    assert caught.value.what == "artifact k has no file 'h'"
    assert caught.value.allowed == "f, g"
    lost = replace(artifact, entries={"f": replace(artifact.entries["f"], path="gone")})
    with pytest.raises(ArtifactError, match=r"k/gone does not exist"):
        lost.read("f")


def test_a_scheme_nobody_knows_is_a_setting_to_correct() -> None:
    with pytest.raises(SettingsError) as caught:
        ObjectStore("nowhere://bucket/prefix")
    assert "scheme that is not known: nowhere" in caught.value.what
    assert caught.value.next == "correct MILLRACE_OBJECTS_URL"


# Local files


def test_a_remote_file_is_copied_once_and_checked_again(new_url: Callable[[str], str], tmp_path: Path) -> None:
    artifact = ObjectStore(new_url("memory")).publish("k", {"a/f.bin": b"content"})
    path = artifact.local("a/f.bin", tmp_path / "cache")
    assert path.read_bytes() == b"content"
    assert artifact.local("a/f.bin", tmp_path / "cache") == path
    assert list((tmp_path / "cache").iterdir()) == [path], "no partial file stays"
    path.write_bytes(b"changed")
    with pytest.raises(DigestError):
        artifact.local("a/f.bin", tmp_path / "cache")


def test_a_file_on_this_disk_is_not_copied(tmp_path: Path) -> None:
    artifact = ObjectStore(str(tmp_path / "store")).publish("k", {"f": b"content"})
    path = artifact.local("f", tmp_path / "cache")
    assert path.is_relative_to(tmp_path / "store")
    assert not (tmp_path / "cache").exists()


def test_writing_replaces_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "f"
    write_atomically(path, b"old")
    assert path.read_bytes() == b"old"

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "fsync", die)
        with pytest.raises(Killed):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


# Digests

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(value=json_values)
@settings(max_examples=60, deadline=None)
def test_equal_values_have_equal_digests_in_any_order(value: Any) -> None:
    def reversed_keys(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: reversed_keys(part[key]) for key in reversed(part)}
        return [reversed_keys(item) for item in part] if isinstance(part, list) else part

    assert digest_json(reversed_keys(value)) == digest_json(value)
    assert digest_json(json.loads(canonical_json(value))) == digest_json(value)
    assert digest_json([value]) != digest_json(value)


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert digest_file(tmp_path / "f") == digest_bytes(b"abc")
    assert digest_bytes(b"abc").startswith("ba7816bf")


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ConnectionRefusedError(111, "refused"), ServiceError),
        (TimeoutError("late"), ServiceError),
        (PermissionError(13, "denied"), ArtifactError),
    ],
)
def test_a_store_that_does_not_give_its_objects(
    raised: OSError, told: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(f"memory://{uuid.uuid4().hex}")
    store.publish("k", {"a": b"1"})

    def refuse(*_args: object, **_options: object) -> bytes:
        raise raised

    monkeypatch.setattr(type(store._fs), "cat_file", refuse)
    for ask in (lambda: store.find("k"), lambda: store.read("k/a")):
        with pytest.raises(told):
            ask()


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ConnectionRefusedError(111, "refused"), ServiceError),
        (TimeoutError("late"), ServiceError),
        (OSError(errno.ENOSPC, "No space left on device"), ServiceError),
        (PermissionError(13, "denied"), ArtifactError),
    ],
)
def test_a_store_that_does_not_take_an_object(
    raised: OSError, told: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(f"memory://{uuid.uuid4().hex}")
    put, failing = type(store._fs).pipe_file, ["a", MANIFEST, "nothing"]

    def refuse(self: Any, path: str, *args: Any, **options: Any) -> None:
        if path.endswith(failing[0]):
            raise raised
        put(self, path, *args, **options)

    monkeypatch.setattr(type(store._fs), "pipe_file", refuse)
    while failing[0] != "nothing":
        with pytest.raises(told):
            store.publish("k", {"a": b"1"})
        assert store.find("k") is None
        failing.pop(0)
    assert store.publish("k", {"a": b"1"}).read("a") == b"1"


def test_on_a_full_disk_nothing_is_published_and_nothing_is_left_beside(tmp_path: Path) -> None:
    code = """
import sys, pathlib
from millrace.errors import MillraceError
from millrace.storage import ObjectStore, write_atomically
try:
    ObjectStore(sys.argv[1] + "/store").publish("k", {"a": b"1"})
except MillraceError as error:
    sys.stderr.write(f"{type(error).__name__}: {error}")
try:
    write_atomically(pathlib.Path(sys.argv[1], "file"), b"content")
except OSError:
    sys.stderr.write("refused")
"""
    told = run_on_full_disk(code, str(tmp_path))
    assert "cannot be written" in told
    assert told.endswith("refused")
    assert ObjectStore(str(tmp_path / "store")).find("k") is None
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


# What several processes write, and what is removed


class _Forgetful(ObjectStore):
    """Commits, and loses the first answer: what asks again finds that something is there."""

    def _create(self, key: str, content: bytes) -> bool:
        return super()._create(key, content) and super()._create(key, content)


@BOTH
def test_a_commit_whose_answer_was_lost_keeps_its_files(kind: str, new_url: Callable[[str], str]) -> None:
    artifact = _Forgetful(new_url(kind)).publish("a/key", {"x.bin": b"x"})
    assert artifact.read("x.bin") == b"x"


@BOTH
def test_files_of_several_writers_become_one_artifact(kind: str, new_url: Callable[[str], str]) -> None:
    url, attempt = new_url(kind), storage.new_attempt()
    entries = {name: ObjectStore(url).put("a/key", attempt, name, name.encode()) for name in ("one", "two")}
    pieces = [memoryview(b"thr"), memoryview(b"ee")]
    entries["three"] = ObjectStore(url).put("a/key", attempt, "three", pieces)
    assert ObjectStore(url).find("a/key") is None
    artifact = ObjectStore(url).commit("a/key", entries)
    assert {name: artifact.read(name) for name in entries} == {"one": b"one", "two": b"two", "three": b"three"}


@BOTH
def test_what_is_removed_is_gone_and_its_neighbours_stay(kind: str, new_url: Callable[[str], str]) -> None:
    store = ObjectStore(new_url(kind))
    for key in ("a/one", "a/two"):
        store.publish(key, {"x.bin": b"x"})
    assert store.names("a") == ["one", "two"]
    store.remove("a/one")
    store.remove("a/one")
    assert store.find("a/one") is None
    assert store.names("a") == ["two"]
    assert store.names("b") == []
