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
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from millrace.errors import ArtifactError, ConfigError, UnknownNameError, nearest
from millrace.limits import Limit
from millrace.quotas import checked_quota
from millrace.storage import write_atomically

_CUSTOMER = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PREFIX = "mr_"
_KEY_BYTES = 32
_ID_CHARS = 12

#: The customer of the key that `millrace up` makes.
LOCAL = "local"

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
class KeyRing:
    """What the file holds: all keys in the order in which they were made; customers' limits, and quotas of a day."""

    keys: list[ServingKey]
    limits: dict[str, Limit]
    quotas: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class KeyFile:
    """The file of the keys, mode 0600; readers see the old content or the new."""

    path: Path

    def read(self) -> KeyRing:
        """All that it holds, revoked keys included; nothing when there is no file.

        Raises:
            ArtifactError: the file is damaged.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return KeyRing([], {})
        try:
            document = json.loads(content)
            found = [ServingKey(**entry) for entry in document["keys"]]
            if not all(isinstance(key.customer, str) and _DIGEST.fullmatch(key.digest) for key in found):
                raise ValueError("a digest is none")
            limits = {name: Limit.of(**limit) for name, limit in document.get("limits", {}).items()}
            quotas = {name: checked_quota(quota) for name, quota in document.get("quotas", {}).items()}
        except (ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
            raise ArtifactError(
                f"the keys in {self.path} cannot be read",
                got=f"{type(error).__name__}: {error}",
                next="restore the file, or remove it and make new keys",
            ) from error
        return KeyRing(found, limits, quotas)

    def create(self, customer: str) -> tuple[ServingKey, str]:
        """A new key of `customer`: as it is kept, and the key, which is nowhere else.

        Raises:
            ConfigError: a bad name.
            ArtifactError: the file is damaged.
        """
        _require_name(customer)
        key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
        made = ServingKey(customer, digest_key(key), _now())
        with self._changing() as ring:
            ring.keys.append(made)
        return made, key

    def create_local(self, path: Path) -> None:
        """Unless there is any key, make one of customer `local`, and leave it at `path`, mode 0600.

        Raises:
            ArtifactError: the file of the keys is damaged.
        """
        with self._changing() as ring:
            if ring.keys:
                return
            # First where it is looked for: with its hash alone, nobody would be let in.
            if not path.is_file():
                key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
                write_atomically(path, f"{key}\n".encode(), mode=0o600)
            ring.keys.append(ServingKey(LOCAL, digest_key(path.read_text().strip()), _now()))

    def limit(self, customer: str, limit: Limit | None, quota: int | None = None) -> None:
        """How often `customer` may ask from now on, with all its keys, and how often a day; None: as the spec says.

        Raises:
            ConfigError: a bad name, or no quota.
            ArtifactError: the file is damaged.
        """
        _require_name(customer)
        known = None if quota is None else checked_quota(quota)
        with self._changing() as ring:
            ring.limits.pop(customer, None)
            ring.quotas.pop(customer, None)
            if limit is not None:
                ring.limits[customer] = limit
            if known is not None:
                ring.quotas[customer] = known

    def revoke(self, key_id: str) -> ServingKey:
        """Refuse a key from now on; it is no error when it is revoked already.

        Raises:
            UnknownNameError: there is no such key.
            ArtifactError: the file is damaged.
        """
        with self._changing() as ring:
            keys = ring.keys
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
    def _changing(self) -> Iterator[KeyRing]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock"), mode=0o600):
            ring = self.read()
            yield ring
            write_atomically(self.path, json.dumps(asdict(ring), indent=2).encode(), mode=0o600)


def _require_name(customer: str) -> None:
    if not _CUSTOMER.fullmatch(customer):
        raise ConfigError(
            "a customer's name cannot be used",
            got=customer,
            allowed="1 to 63 of a-z, 0-9, '.', '_' and '-', the first a letter or digit",
        )


def shorten_id(text: str) -> str:
    """An id as it may be repeated to a person: who pastes the key itself does not see it again."""
    return f"{text[:4]}…" if len(text) > _ID_CHARS else text


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
