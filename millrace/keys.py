"""Serving keys: who may ask for predictions. Shown once, kept as SHA-256 only, in one file that replicas read.

A key is 256 random bits, so nobody can try them through: a slow hash, which protects passwords that people think of,
would only cost time in each request. It is looked up by its digest, so how long that takes says nothing about the key.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from millrace.errors import ArtifactError, ConfigError, UnknownNameError, nearest
from millrace.storage import write_atomically

_CUSTOMER = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PREFIX = "mr_"
_KEY_BYTES = 32
_ID_CHARS = 12
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ServingKey:
    """A key as it is kept: never the key itself. Times are ISO 8601; a revoked key stays, and is refused."""

    customer: str
    digest: str
    created_at: str
    revoked_at: str | None = None

    @property
    def id(self) -> str:
        """What a person calls it: the digest's begin, which tells nothing about the key."""
        return self.digest[:_ID_CHARS]

    def as_dict(self) -> dict[str, str | None]:
        return {"id": self.id, "customer": self.customer, "created_at": self.created_at, "revoked_at": self.revoked_at}


def digest_key(key: str | bytes) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


@dataclass(frozen=True)
class KeyFile:
    """The file of the keys, mode 0600; readers see the old content or the new."""

    path: Path

    def read(self) -> list[ServingKey]:
        """All keys in the order in which they were made, revoked ones included; none when there is no file.

        Raises:
            ArtifactError: the file is damaged.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        try:
            found = [ServingKey(**entry) for entry in json.loads(content)["keys"]]
            if not all(isinstance(key.customer, str) and _DIGEST.fullmatch(key.digest) for key in found):
                raise ValueError("a digest is none")
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(
                f"the keys in {self.path} cannot be read",
                got=f"{type(error).__name__}: {error}",
                next="restore the file, or remove it and make new keys",
            ) from error
        return found

    def create(self, customer: str) -> tuple[ServingKey, str]:
        """A new key of `customer`: as it is kept, and the key, which is nowhere else.

        Raises:
            ConfigError: a bad name.
            ArtifactError: the file is damaged.
        """
        if not _CUSTOMER.fullmatch(customer):
            raise ConfigError(
                "a customer's name cannot be used",
                got=customer,
                allowed="1 to 63 of a-z, 0-9, '.', '_' and '-', the first a letter or digit",
            )
        key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
        made = ServingKey(customer, digest_key(key), _now())
        with self._changing() as keys:
            keys.append(made)
        return made, key

    def revoke(self, key_id: str) -> ServingKey:
        """Refuse a key from now on; it is no error when it is revoked already.

        Raises:
            UnknownNameError: there is no such key.
            ArtifactError: the file is damaged.
        """
        with self._changing() as keys:
            known = {key.id: place for place, key in enumerate(keys)}
            if key_id not in known:
                raise UnknownNameError(
                    f"there is no key '{shorten_id(key_id)}'",
                    allowed=nearest(shorten_id(key_id), known),
                    next="list them with `millrace keys list`",
                )
            place = known[key_id]
            keys[place] = replace(keys[place], revoked_at=keys[place].revoked_at or _now())
            return keys[place]

    @contextmanager
    def _changing(self) -> Iterator[list[ServingKey]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock"), mode=0o600):
            keys = self.read()
            yield keys
            content = json.dumps({"keys": [asdict(key) for key in keys]}, indent=2).encode()
            write_atomically(self.path, content, mode=0o600)


def shorten_id(text: str) -> str:
    """An id as it may be repeated to a person: who pastes the key itself does not see it again."""
    return f"{text[:4]}…" if len(text) > _ID_CHARS else text


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
