"""Artifacts that are whole or absent, on a folder or an object store.

An artifact is a set of files and a manifest. The files go under a prefix of their own writer; the manifest, which
names them with size and SHA-256 digest, is committed last in one step that only one writer can win (a hard link on
a disk, a conditional put on S3). Readers trust only manifests: without one, nothing is there. What a killed or a
losing writer leaves behind is unreferenced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import fsspec
from fsspec.implementations.local import LocalFileSystem

from millrace.errors import ArtifactError, DigestError, ServiceError, SettingsError, shorten
from millrace.faults import fault_point

MANIFEST = "manifest.json"


def digest_bytes(content: bytes) -> str:
    """SHA-256 of `content`, in hex."""
    return hashlib.sha256(content).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of the file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: object) -> str:
    """SHA-256 of `value` as canonical JSON: equal values give equal digests."""
    return digest_bytes(canonical_json(value))


def canonical_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an artifact: where it lies under the artifact's key, its size and digest."""

    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Artifact:
    """A committed artifact. `digest` names its content: it covers every file's digest and the summary."""

    store: ObjectStore
    key: str
    entries: Mapping[str, Entry]
    summary: Mapping[str, Any]
    lineage: Mapping[str, Any]
    digest: str
    created_at: str

    def read(self, name: str) -> bytes:
        """The bytes of file `name`, checked against the manifest before anyone parses them.

        Raises:
            ArtifactError: the artifact has no such file.
            DigestError: the stored bytes are not those that were committed.
        """
        entry = self._entry(name)
        content = self.store.read(f"{self.key}/{entry.path}")
        if (found := digest_bytes(content)) != entry.sha256:
            raise _digest_error(self, name, entry, found)
        return content

    def local(self, name: str, cache_dir: Path) -> Path:
        """A local file with the content of `name`, checked; it is copied into `cache_dir` when the store is remote."""
        entry = self._entry(name)
        path = self.store.local_path(f"{self.key}/{entry.path}")
        if path is None:
            path = cache_dir / f"{entry.sha256}-{name.replace('/', '_')}"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(f".{uuid.uuid4().hex}")
                content = self.read(name)
                with fault_point("storage.cache"):
                    partial.write_bytes(content)
                    partial.replace(path)
                return path
        try:
            found = digest_file(path)
        except OSError as error:
            raise _unreadable(str(path), error) from error
        if found != entry.sha256:
            raise _digest_error(self, name, entry, found)
        return path

    def _entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise ArtifactError(
                f"artifact {self.key} has no file '{name}'", allowed=", ".join(self.entries), next="produce it again"
            )
        return self.entries[name]

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries.values())


def _content_digest(entries: Mapping[str, Entry], summary: Mapping[str, Any]) -> str:
    return digest_json({"entries": {name: entry.sha256 for name, entry in entries.items()}, "summary": summary})


def _entry(path: str, num_bytes: int, sha256: str) -> Entry:
    """The entry that a manifest states.

    Raises:
        ValueError: a part is of another type, or the path leaves the artifact.
    """
    if (type(path), type(num_bytes), type(sha256)) != (str, int, str) or num_bytes < 0:
        raise ValueError("an entry is a path, a size in bytes and a digest")
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"path {path!r} leaves the artifact")
    return Entry(path, num_bytes, sha256)


def _unreadable(what: str, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{what} cannot be read",
        got=f"{type(error).__name__}: {error}",
        next="correct its rights, or delete the prefix and run the step again",
    )


def _digest_error(artifact: Artifact, name: str, entry: Entry, found: str) -> DigestError:
    return DigestError(
        f"{artifact.store.url}/{artifact.key}: '{name}' differs from its manifest",
        got=f"sha256 {found}",
        allowed=f"sha256 {entry.sha256}",
        next=f"delete the prefix {artifact.key} and run the step again",
    )


class ObjectStore:
    """Artifacts below one fsspec URL: a local folder, `s3://bucket/prefix`, or any other scheme fsspec knows."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise SettingsError(
                f"the object store's URL has a scheme that is not known: {self.url.partition('://')[0]}",
                got=str(error),
                allowed="a folder, s3://bucket/prefix, or another scheme of fsspec",
                next="correct MILLRACE_OBJECTS_URL",
            ) from error

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return (type(self), (self.url,))

    @property
    def _is_local(self) -> bool:
        return isinstance(self._fs, LocalFileSystem)

    def local_path(self, key: str) -> Path | None:
        """Where `key` lies on this machine's disk; None when the store is remote."""
        return Path(self._root) / key if self._is_local else None

    def read(self, key: str) -> bytes:
        """The bytes under `key`.

        Raises:
            ArtifactError: nothing lies there, or it cannot be read.
            ServiceError: the store does not answer.
        """
        with fault_point("storage.read"):
            content = self._content(key)
        if content is None:
            raise ArtifactError(f"{self.url}/{key} does not exist", next="run the step that makes it again")
        return content

    def _content(self, key: str) -> bytes | None:
        """The bytes under `key`, None where nothing lies."""
        try:
            return bytes(self._fs.cat_file(f"{self._root}/{key}"))
        except FileNotFoundError:
            return None
        except (ConnectionError, TimeoutError) as error:
            raise ServiceError(
                f"the object store at {self.url} does not answer", got=str(error), next="check MILLRACE_OBJECTS_URL"
            ) from error
        except (OSError, ValueError) as error:  # a folder in its place, no right to read it, no possible name
            raise _unreadable(f"{self.url}/{shorten(key)}", error) from error

    def find(self, key: str) -> Artifact | None:
        """The artifact committed under `key`, or None.

        Raises:
            ArtifactError: a manifest is there and cannot be read.
            DigestError: its digest is not that of what it names.
        """
        with fault_point("storage.find"):
            raw = self._content(f"{key}/{MANIFEST}")
        if raw is None:
            return None
        try:
            document = json.loads(raw)
            entries = {name: _entry(**entry) for name, entry in document["entries"].items()}
            if not all(isinstance(document[part], dict) for part in ("summary", "lineage")):
                raise ValueError("summary and lineage must be objects")
            artifact = Artifact(
                self, key, entries, document["summary"], document["lineage"], document["digest"], document["created_at"]
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _unreadable(f"manifest of {self.url}/{key}", error) from error
        if (found := _content_digest(entries, artifact.summary)) != artifact.digest:
            raise DigestError(
                f"manifest of {self.url}/{key} was changed after it was committed",
                got=f"sha256 {found}",
                allowed=f"sha256 {artifact.digest}",
                next="delete the prefix and run the step again",
            )
        return artifact

    def get(self, key: str) -> Artifact:
        """The artifact committed under `key`.

        Raises:
            ArtifactError: there is none.
        """
        artifact = self.find(key)
        if artifact is None:
            raise ArtifactError(f"no artifact {self.url}/{key}", next="run the step that makes it")
        return artifact

    def publish(
        self,
        key: str,
        files: Mapping[str, bytes | Path],
        *,
        summary: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Commit `files` under `key` and return the artifact that is there afterwards.

        When another writer committed first, theirs is returned: keys name inputs, so both are right.
        """
        attempt = uuid.uuid4().hex[:12]
        with fault_point("storage.write"):
            entries = {name: self._put(key, f"{attempt}/{name}", content) for name, content in files.items()}
        # As it will be read: JSON knows no integer keys and no tuples.
        summary = json.loads(json.dumps(dict(summary or {}), default=str))
        document = {
            "summary": summary,
            "lineage": dict(lineage or {}),
            "entries": {
                name: {"path": e.path, "num_bytes": e.num_bytes, "sha256": e.sha256} for name, e in entries.items()
            },
            "created_at": datetime.now(UTC).isoformat(),
            "digest": _content_digest(entries, summary),
        }
        with fault_point("storage.commit"):
            is_first = self._create(f"{key}/{MANIFEST}", json.dumps(document, indent=1, default=str).encode())
        if not is_first:
            with fault_point("storage.remove"):
                self._remove(f"{self._root}/{key}/{attempt}")
        return self.get(key)

    def _put(self, key: str, path: str, content: bytes | Path) -> Entry:
        target = f"{self._root}/{key}/{path}"
        if self._is_local:
            local = Path(target)
            local.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, local)
            else:
                local.write_bytes(content)
            _fsync(local)
            return Entry(path, local.stat().st_size, digest_file(local))
        raw = content.read_bytes() if isinstance(content, Path) else content
        self._fs.pipe_file(target, raw)
        return Entry(path, len(raw), digest_bytes(raw))

    def _remove(self, prefix: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # an artifact without files left nothing there
            self._fs.rm(prefix, recursive=True)

    def _create(self, key: str, content: bytes) -> bool:
        """Write `content` under `key` in one step; False when something is there already."""
        target = f"{self._root}/{key}"
        if not self._is_local:
            try:
                self._fs.pipe_file(target, content, mode="create")
            except FileExistsError:
                return False
            return True
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        partial.write_bytes(content)
        _fsync(partial)
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        finally:
            partial.unlink()
        return True


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`; a reader sees the old bytes or the new, never a mixture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with fault_point("file.replace"):
        partial.write_bytes(content)
        _fsync(partial)
        partial.replace(path)
