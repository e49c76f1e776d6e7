"""Artifacts that are whole or absent, on a folder or an object store.

An artifact is a set of files and a manifest. The files go under a prefix of their own writer; the manifest, which
names them with size and SHA-256 digest, is committed last in one step that only one writer can win (a hard link on
a disk, a conditional put on S3). Readers trust only manifests: without one, nothing is there. What a killed or a
losing writer leaves behind is unreferenced.

A manifest is signed (`millrace.signing`), so who can write to the store can destroy artifacts, but make none. Before a
byte is parsed the signature is checked, and a file's place, size and digest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import fsspec
from fsspec.implementations.local import LocalFileSystem

from millrace.errors import ArtifactError, DigestError, ServiceError, SettingsError
from millrace.faults import fault_point
from millrace.manifest import (
    MANIFEST,
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    Entry,
    Manifest,
    canonical_json,
    digest_json,
    is_name,
)
from millrace.secrets import redact_value

if TYPE_CHECKING:
    from millrace.settings import Settings
    from millrace.signing import Keys

__all__ = [
    "MANIFEST",
    "Artifact",
    "Entry",
    "ObjectStore",
    "canonical_json",
    "digest_bytes",
    "digest_file",
    "digest_json",
    "new_attempt",
    "write_atomically",
]


_FULL = (errno.ENOSPC, errno.EDQUOT)

#: What s3fs makes of answers 500 and 503.
_BUSY = (errno.EREMOTEIO, errno.EIO, errno.EBUSY, errno.EAGAIN)

#: What a file is made of: its bytes, a file to copy, or pieces that can be gone through more than once.
Content = bytes | Path | Iterable[memoryview]


def digest_bytes(content: bytes) -> str:
    """SHA-256 of `content`, in hex."""
    return hashlib.sha256(content).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of the file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_attempt() -> str:
    """A name that no other writer of the same artifact has."""
    return uuid.uuid4().hex[:12]


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
        content = self.store.read(self._own_key(name, entry), entry.num_bytes)
        if len(content) != entry.num_bytes:
            raise _size_error(self, name, entry)
        if (found := digest_bytes(content)) != entry.sha256:
            raise _digest_error(self, name, entry, found)
        return content

    def local(self, name: str, cache_dir: Path) -> Path:
        """A local file with the content of `name`, checked; it is copied into `cache_dir` when the store is remote."""
        entry = self._entry(name)
        path = self.store.local_path(self._own_key(name, entry))
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
        if not path.is_file() or path.stat().st_size != entry.num_bytes:
            raise _size_error(self, name, entry)
        try:
            found = digest_file(path)
        except OSError as error:
            raise _unreadable(str(path), str(error)) from error
        if found != entry.sha256:
            raise _digest_error(self, name, entry, found)
        return path

    def _own_key(self, name: str, entry: Entry) -> str:
        """Where `name` lies; on a disk no link may lead from there to another place.

        A hard link cannot be told from a file; what it leads to must have the size and the digest of the manifest.
        """
        folder = self.store.local_path(self.key)
        if folder is not None and os.path.realpath(folder / entry.path) != os.path.realpath(folder) + f"/{entry.path}":
            raise ArtifactError(
                f"artifact {self.key}: '{name}' is a link that leads out of it",
                got=os.path.realpath(folder / entry.path),
                next=f"delete the prefix {self.key} and run the step again",
            )
        return f"{self.key}/{entry.path}"

    def _entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise ArtifactError(
                f"artifact {self.key} has no file '{name}'", allowed=", ".join(self.entries), next="produce it again"
            )
        return self.entries[name]

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries.values())


def _check_name(name: str) -> None:
    if not is_name(name):
        raise ArtifactError(
            "neither an artifact nor a file of one can be called so",
            got=name,
            allowed="letters, digits, '_', '.', '=', '+', '-', and '/' between parts; no part begins with '.' or '-'",
            next="correct the name",
        )


def _size_error(artifact: Artifact, name: str, entry: Entry) -> DigestError:
    return DigestError(
        f"{artifact.store.url}/{artifact.key}: '{name}' has not the size that its manifest names",
        allowed=f"{entry.num_bytes} bytes",
        next=f"delete the prefix {artifact.key} and run the step again",
    )


def _unreadable(what: str, got: str) -> ArtifactError:
    return ArtifactError(
        f"{what} cannot be read",
        got=got,
        allowed="a regular file",
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
    """Artifacts below one fsspec URL: a local folder, `s3://bucket/prefix`, or any other scheme fsspec knows.

    With `keys`, manifests are signed and only signed ones are read; that is what `of` gives. Without, anybody's are:
    for tests, and nothing else calls it so (tests/unit/test_signed_stores.py).
    """

    def __init__(self, url: str, keys: Keys | None = None) -> None:
        self.url, self.keys = url.rstrip("/"), keys
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise SettingsError(
                f"the object store's URL has a scheme that is not known: {self.url.partition('://')[0]}",
                got=str(error),
                allowed="a folder, s3://bucket/prefix, or another scheme of fsspec",
                next="correct MILLRACE_OBJECTS_URL",
            ) from error

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The store that the settings name, with its keys."""
        from millrace.signing import Keys

        return cls(settings.objects, Keys(settings.signing_key))

    def __reduce__(self) -> tuple[type[Self], tuple[str, Keys | None]]:
        return (type(self), (self.url, self.keys))

    @property
    def _is_local(self) -> bool:
        return isinstance(self._fs, LocalFileSystem)

    def local_path(self, key: str) -> Path | None:
        """Where `key` lies on this machine's disk; None when the store is remote."""
        return Path(self._root) / key if self._is_local else None

    def read(self, key: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The bytes under `key`; of more than `max_bytes` only so many that the excess is seen.

        Raises:
            ArtifactError: nothing lies there, or it cannot be read.
            ServiceError: the store does not answer.
        """
        try:
            with fault_point("storage.read"):
                return self._cat(key, max_bytes)
        except FileNotFoundError:
            raise ArtifactError(f"{self.url}/{key} does not exist", next="run the step that makes it again") from None

    def _cat(self, key: str, max_bytes: int) -> bytes:
        if self._is_local:
            return _read_file(Path(self._root) / key, max_bytes)
        try:
            if max_bytes == 0:  # an empty object has no range that could be asked for
                return b"" if self._fs.size(f"{self._root}/{key}") == 0 else b"\0"
            return bytes(self._fs.cat_file(f"{self._root}/{key}", start=0, end=max_bytes + 1))
        except FileNotFoundError:
            raise
        except OSError as error:
            if self._is_away(error):
                raise self._away(error) from error
            raise _unreadable(f"{self.url}/{key}", str(error)) from error

    def find(self, key: str) -> Artifact | None:
        """The artifact committed under `key`, or None.

        Raises:
            SignatureError: a manifest is there and nobody who is trusted signed it for this key; it was not parsed.
            ArtifactError: it cannot be read.
            DigestError: its digest is not that of what it names.
        """
        where = f"{self.url}/{key}"
        _check_name(key)
        try:
            with fault_point("storage.find"):
                raw = self._cat(f"{key}/{MANIFEST}", MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            return None
        try:
            if len(raw) > MAX_MANIFEST_BYTES:
                raise ValueError(f"it has more than {MAX_MANIFEST_BYTES} bytes")
            document = raw if self.keys is None else self.keys.open(key, raw, where)
            manifest = Manifest.decode(document, f"manifest of {where}")
        except ValueError as error:
            raise ArtifactError(
                f"manifest of {where} cannot be read", got=str(error), next="delete the prefix and run the step again"
            ) from error
        if (found := manifest.content_digest) != manifest.digest:
            raise DigestError(
                f"manifest of {where} was changed after it was committed",
                got=f"sha256 {found}",
                allowed=f"sha256 {manifest.digest}",
                next="delete the prefix and run the step again",
            )
        return Artifact(
            self, key, manifest.entries, manifest.summary, manifest.lineage, manifest.digest, manifest.created_at
        )

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

        Raises:
            ArtifactError: a name cannot be used, or the store may not be written to.
            ServiceError: the store does not answer, or is full.
        """
        for name in (key, *files):
            _check_name(name)
        attempt = new_attempt()
        entries = {name: self.put(key, attempt, name, content) for name, content in files.items()}
        return self.commit(key, entries, summary=summary, lineage=lineage)

    def put(self, key: str, attempt: str, name: str, content: Content) -> Entry:
        """Write one file of an artifact that is not committed yet; several processes may do so for one `attempt`.

        Nobody sees the file before `commit` names it. Writing it again replaces it.

        Raises:
            ArtifactError: a name cannot be used, or the store may not be written to.
            ServiceError: the store does not answer, is full, or keeps fewer bytes than it was given.
        """
        for part in (key, name):
            _check_name(part)
        with fault_point("storage.write"), self._writing(key):
            return self._put(key, f"{attempt}/{name}", content)

    def commit(
        self,
        key: str,
        entries: Mapping[str, Entry],
        *,
        summary: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Make the files that were `put` the artifact `key`, in one step; return what is there afterwards.

        Raises as `publish` does. After a ServiceError it may be asked again: if the first try came through and only
        its answer was lost, the artifact is found and returned.
        """
        # As it will be read: JSON knows no integer keys and no tuples.
        summary = json.loads(json.dumps(redact_value(dict(summary or {})), default=str))
        manifest = Manifest(entries, summary, redact_value(dict(lineage or {})), "", datetime.now(UTC).isoformat())
        document = replace(manifest, digest=manifest.content_digest).encode()
        sealed = document if self.keys is None else self.keys.seal(key, document)
        with fault_point("storage.commit"), self._writing(key):
            is_first = self._create(f"{key}/{MANIFEST}", sealed)
        found = self.get(key)
        # A conditional put whose answer was lost finds, when it is tried again, its own work.
        theirs = {entry.path.partition("/")[0] for entry in found.entries.values()}
        for attempt in {entry.path.partition("/")[0] for entry in entries.values()} - theirs if not is_first else ():
            self.discard(key, attempt)
        return found

    def discard(self, key: str, attempt: str) -> None:
        """Remove what was `put` by `attempt` under `key`; it must not be committed, nor be about to be."""
        with fault_point("storage.remove"), self._writing(key):
            self._remove(f"{self._root}/{key}/{attempt}")

    def remove(self, key: str) -> None:
        """Remove the artifact `key`: first its manifest, so that nobody sees half of it, then its files.

        A writer killed in between leaves files that no manifest names. It is no error if nothing is there.
        """
        _check_name(key)
        with fault_point("storage.remove"), self._writing(key):
            self._remove(f"{self._root}/{key}/{MANIFEST}")
        with fault_point("storage.remove"), self._writing(key):
            self._remove(f"{self._root}/{key}")

    def names(self, prefix: str) -> list[str]:
        """What lies directly under `prefix`, committed or not, sorted.

        Raises:
            ServiceError: the store does not answer.
        """
        _check_name(prefix)
        with fault_point("storage.list"), self._writing(prefix):
            try:
                found = self._fs.ls(f"{self._root}/{prefix}", detail=False, refresh=True)
            except FileNotFoundError:
                return []
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in found} - {prefix.rpartition("/")[2]})

    @contextlib.contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._is_away(error):
                raise self._away(error) from error
            if error.errno in _FULL:
                raise ServiceError(
                    f"the object store at {self.url} is full", got=str(error), next="make room, then run the step again"
                ) from error
            raise ArtifactError(
                f"{self.url}/{key} cannot be written",
                got=str(error),
                allowed="a store that this user may write to",
                next="correct its rights, or MILLRACE_OBJECTS_URL",
            ) from error

    def _is_away(self, error: OSError) -> bool:
        """Whether the store did not answer, or said that it cannot at present."""
        return isinstance(error, ConnectionError | TimeoutError) or (not self._is_local and error.errno in _BUSY)

    def _away(self, error: OSError) -> ServiceError:
        return ServiceError(
            f"the object store at {self.url} does not answer", got=str(error), next="check MILLRACE_OBJECTS_URL"
        )

    def _put(self, key: str, path: str, content: Content) -> Entry:
        target = f"{self._root}/{key}/{path}"
        if not isinstance(content, bytes | Path):
            return self._put_pieces(target, path, content)
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

    def _put_pieces(self, target: str, path: str, pieces: Iterable[memoryview]) -> Entry:
        """Write piece by piece: what is held in memory does not grow with the file."""
        digest, num_bytes = hashlib.sha256(), 0
        if self._is_local:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        with self._fs.open(target, "wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
                num_bytes += piece.nbytes
        if self._is_local:
            _fsync(Path(target))
        self._fs.invalidate_cache(target.rpartition("/")[0])
        if (kept := self._fs.size(target)) != num_bytes:
            raise ConnectionError(f"{kept} of {num_bytes} bytes of {path} were kept")
        return Entry(path, num_bytes, digest.hexdigest())

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


def _read_file(path: Path, max_bytes: int) -> bytes:
    """At most `max_bytes` + 1 bytes of a regular file; of a link, a pipe or a device none."""
    try:
        # Opening a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(str(path), str(error.strerror)) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise _unreadable(str(path), stat.filemode(found.st_mode))
    with os.fdopen(descriptor, "rb") as file:
        return file.read(min(found.st_size, max_bytes) + 1)


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Replace the file at `path` by `content`; a reader sees the old bytes or the new, never a mixture.

    `mode` less the umask is the file's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with fault_point("file.replace"):
            partial.touch(mode)
            partial.write_bytes(content)
            _fsync(partial)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
