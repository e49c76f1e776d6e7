"""Who made an artifact: an Ed25519 signature over every manifest, checked before the manifest is parsed.

Whoever makes artifacts holds a private key; whoever reads them needs the public keys that are trusted, and nothing
secret. Both are PEM files side by side, `signing.key` and `signing.pub`; the second may hold several keys, so that
keys can be changed (docs/how-to/rotate-the-signing-key.md).

A sealed document is one line that names the signer, and the document's bytes. The signature covers the key under which
the document was committed and these very bytes: moved to another key or changed in any way, it does not hold.
"""

from __future__ import annotations

import base64
import hashlib
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from millrace.errors import SettingsError, SignatureError
from millrace.new_file import create

_PURPOSE = b"millrace manifest 1"
_LINE = re.compile(rb"millrace-signed 1 ed25519 (?P<signer>[0-9a-f]{16}) (?P<signature>[A-Za-z0-9+/]{86}==)")
_MAX_LINE_BYTES = 160
_MAX_KEY_FILE_BYTES = 65_536
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)

# Nobody else may read the private key, and nobody else may say which public keys are trusted. A group may read the
# private key: that is how Kubernetes mounts a secret for a process that is not root.
_FORBIDDEN_ON_PRIVATE = 0o037
_FORBIDDEN_ON_PUBLIC = 0o022


@dataclass(frozen=True, slots=True)
class Keys:
    """Where the keys lie. It holds no key itself, so it may be pickled and logged."""

    private: Path

    @property
    def public(self) -> Path:
        return self.private.with_suffix(".pub")

    def seal(self, key: str, document: bytes) -> bytes:
        """`document` with the signature that lets it stand under `key`.

        Raises:
            SettingsError: the private key is absent, broken or open to others.
        """
        signer = _private_key(self.private, _stamp(self.private, _FORBIDDEN_ON_PRIVATE))
        signature = base64.b64encode(signer.sign(_signed(key, document)))
        return b"millrace-signed 1 ed25519 %s %s\n%s" % (fingerprint(signer.public_key()), signature, document)

    def open(self, key: str, sealed: bytes, where: str) -> bytes:
        """The document in `sealed`; nothing of it has been parsed.

        Raises:
            SignatureError: it bears no signature, or none of a trusted key, or one that was made for other bytes or
                for another key.
            SettingsError: the trusted keys are absent, broken or open to others.
        """
        line, _, document = sealed[:_MAX_LINE_BYTES].partition(b"\n")
        found = _LINE.fullmatch(line)
        if found is None:
            raise SignatureError(
                f"manifest of {where} is not signed",
                allowed=f"a signature by a key in {self.public}",
                next=f"it is from before artifacts were signed, or not ours: delete the prefix {key} and run the step "
                "again, or start with an empty state folder",
            )
        trusted = _trusted_keys(self.public, _stamp(self.public, _FORBIDDEN_ON_PUBLIC))
        signer = found["signer"].decode()
        if signer not in trusted:
            raise SignatureError(
                f"manifest of {where} is signed by a key that is not trusted",
                got=signer,
                allowed=", ".join(trusted),
                next=f"if the key is yours, add its public half to {self.public}; else delete the prefix {key}",
            )
        document = sealed[len(line) + 1 :]
        try:
            trusted[signer].verify(base64.b64decode(found["signature"]), _signed(key, document))
        except InvalidSignature:
            raise SignatureError(
                f"manifest of {where} was changed after it was signed, or was signed for another key",
                got=f"signature of {signer}",
                next=f"delete the prefix {key} and run the step again",
            ) from None
        return document

    def create(self) -> None:
        """Make the private key and trust it; what is there already stays.

        Raises:
            SettingsError: the private key that is there is broken or open to others.
        """
        self.private.parent.mkdir(parents=True, exist_ok=True)
        if not self.private.exists():
            made = Ed25519PrivateKey.generate()
            create(self.private, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        if not self.public.exists():
            private = _private_key(self.private, _stamp(self.private, _FORBIDDEN_ON_PRIVATE))
            pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            create(self.public, pem, 0o644)


def fingerprint(key: Ed25519PublicKey) -> bytes:
    """16 hex digits that name a public key."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16].encode()


def _signed(key: str, document: bytes) -> bytes:
    """What is signed; the key's length stands before it, so no two pairs of key and document give the same bytes."""
    name = key.encode()
    return b"%s\0%d\0%s\0%s" % (_PURPOSE, len(name), name, document)


# A file is read again when it changed: a key that is no longer trusted is refused at once.
_Stamp = tuple[int, int, int]


def _stamp(path: Path, forbidden: int) -> _Stamp:
    try:
        found = path.stat()
    except OSError as error:
        raise SettingsError(
            f"there is no signing key at {path}",
            got=error.strerror,
            next="`millrace up` makes one on a laptop; elsewhere set MILLRACE_SIGNING_KEY_FILE",
        ) from error
    if not stat.S_ISREG(found.st_mode) or found.st_mode & forbidden:
        raise SettingsError(
            f"others may read or change {path}",
            got=stat.filemode(found.st_mode),
            allowed=f"a file without the permissions {forbidden:03o}",
            next=f"chmod {0o600 if forbidden & 0o007 == 0o007 else 0o644:o} {path}, and change the key if it was read",
        )
    return found.st_mtime_ns, found.st_size, found.st_ino


@lru_cache(maxsize=8)
def _private_key(path: Path, _: _Stamp) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:
        raise _broken(path, str(error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _broken(path, type(key).__name__)
    return key


@lru_cache(maxsize=8)
def _trusted_keys(path: Path, _: _Stamp) -> Mapping[str, Ed25519PublicKey]:
    keys: dict[str, Ed25519PublicKey] = {}
    for block in _PEM.findall(_read(path)):
        try:
            key = load_pem_public_key(block)
        except ValueError as error:
            raise _broken(path, str(error)) from error
        if not isinstance(key, Ed25519PublicKey):
            raise _broken(path, type(key).__name__)
        keys[fingerprint(key).decode()] = key
    if not keys:
        raise _broken(path, "no public key")
    return keys


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_KEY_FILE_BYTES)


def _broken(path: Path, got: str) -> SettingsError:
    return SettingsError(
        f"{path} holds no key that signs artifacts", got=got, allowed="Ed25519 in PEM", next="make it again"
    )
