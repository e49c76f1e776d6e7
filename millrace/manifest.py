"""The document that makes files an artifact: it names each with size and digest, and is committed last."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from millrace import strict_json

MANIFEST = "manifest.json"

#: A manifest is read into memory before its signature can be checked.
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_FILE_BYTES = 8 * 2**30
_MAX_ENTRIES = 10_000
_MAX_NAME_CHARS, _MAX_KEY_CHARS = 200, 900

_NAME = re.compile(r"[A-Za-z0-9_][\w.=+-]*(/[A-Za-z0-9_][\w.=+-]*)*", re.ASCII)
_ATTEMPT = re.compile(r"[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"summary", "lineage", "entries", "created_at", "digest"}


def digest_json(value: object) -> str:
    """SHA-256 of `value` as canonical JSON: equal values give equal digests."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def canonical_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def is_name(text: str) -> bool:
    """Whether `text` may name a file of an artifact, or an artifact: it cannot lead out of the folder it lies in."""
    return len(text) <= _MAX_KEY_CHARS and _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an artifact: where it lies under the artifact's key, its size and digest."""

    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says. `digest` names the content: it covers every file's digest and the summary."""

    entries: Mapping[str, Entry]
    summary: Mapping[str, Any]
    lineage: Mapping[str, Any]
    digest: str
    created_at: str

    @property
    def content_digest(self) -> str:
        """What `digest` must be."""
        return digest_json(
            {"entries": {name: entry.sha256 for name, entry in self.entries.items()}, "summary": self.summary}
        )

    def encode(self) -> bytes:
        document = {
            "summary": self.summary,
            "lineage": self.lineage,
            "entries": {name: asdict(entry) for name, entry in self.entries.items()},
            "created_at": self.created_at,
            "digest": self.digest,
        }
        return json.dumps(document, indent=1, default=str, allow_nan=False).encode()

    @classmethod
    def decode(cls, content: bytes, where: str) -> Self:
        """The manifest in `content`, each field of which is of its type; whether the digest is right is not checked.

        Raises:
            ArtifactError: it is no JSON.
            ValueError: a field is absent, of another type or too large, or a path leaves the artifact.
        """
        document = strict_json.parse(content, where, max_bytes=MAX_MANIFEST_BYTES)
        if not isinstance(document, dict) or set(document) != _FIELDS:
            raise ValueError(f"its fields are not {', '.join(sorted(_FIELDS))}")
        for name, kind in {"summary": dict, "lineage": dict, "entries": dict, "created_at": str}.items():
            if not isinstance(document[name], kind):
                raise ValueError(f"field '{name}' is no {kind.__name__}")
        if len(document["entries"]) > _MAX_ENTRIES:
            raise ValueError(f"{len(document['entries'])} entries, at most {_MAX_ENTRIES} are allowed")
        entries = {name: _entry(name, entry) for name, entry in document["entries"].items()}
        digest = _sha256(document["digest"], "digest")
        return cls(entries, document["summary"], document["lineage"], digest, document["created_at"])


def _entry(name: str, document: Any) -> Entry:
    if len(name) > _MAX_NAME_CHARS or not is_name(name):
        raise ValueError(f"{name[:40]!r} cannot name a file")
    if not isinstance(document, dict) or set(document) != {"path", "num_bytes", "sha256"}:
        raise ValueError(f"entry '{name}' has other fields than path, num_bytes and sha256")
    path, num_bytes = document["path"], document["num_bytes"]
    # A writer's own prefix and the name, as `publish` makes it.
    if not isinstance(path, str) or not _ATTEMPT.fullmatch(path[:12]) or path[12:] != f"/{name}":
        raise ValueError(f"path {path!r} of '{name}' leaves the artifact")
    if type(num_bytes) is not int or not 0 <= num_bytes <= MAX_FILE_BYTES:
        raise ValueError(f"'{name}' has {num_bytes!r} bytes, 0 to {MAX_FILE_BYTES} are allowed")
    return Entry(path, num_bytes, _sha256(document["sha256"], name))


def _sha256(value: Any, name: str) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{value!r} of '{name}' is no SHA-256 digest")
    return value
