"""Ed25519 keys of approvers: the private one in a file that only its owner reads, the public one in the ledger."""

from __future__ import annotations

import base64
import binascii
import re
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from millrace import secrets
from millrace.errors import ApprovalError, ConfigError, UnknownNameError, nearest
from millrace.new_file import create

#: An approver's name. ASCII, so that no two names look alike.
NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
NAME_RULE = "1 to 32 of a-z, 0-9, '_' and '-', the first a letter"

_SUFFIX = ".key"
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64


class PrivateKey:
    """What proves an approver. Neither printed nor pickled."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def new(cls) -> PrivateKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_text(cls, text: str) -> PrivateKey:
        key = cls(Ed25519PrivateKey.from_private_bytes(decode(text, _KEY_BYTES)))
        secrets.remember(text)
        return key

    @property
    def public(self) -> str:
        """The public key, 43 characters."""
        return encode(self._key.public_key().public_bytes_raw())

    def sign(self, content: bytes) -> str:
        """The signature of `content`, 86 characters."""
        return encode(self._key.sign(content))

    def save(self, path: Path) -> None:
        """Write the key to a new file that only its owner may read.

        Raises:
            ConfigError: there is such a file.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not create(path, f"{encode(self._key.private_bytes_raw())}\n".encode(), 0o600):
            raise ConfigError(f"{path} exists", next="use it, or move it away")


def key_path(folder: Path, name: str) -> Path:
    """Where the key of approver `name` lies.

    Raises:
        ConfigError: that is no name.
    """
    if not NAME.fullmatch(name):
        raise ConfigError("this is no name of an approver", got=name, allowed=NAME_RULE, next="correct it")
    return folder / f"{name}{_SUFFIX}"


def load_key(folder: Path, name: str | None) -> tuple[str, PrivateKey]:
    """The approver's name and key in `folder`; without a name, of the only one there is.

    Raises:
        UnknownNameError: there is no such file, or several and no name.
        ConfigError: others may read the file, or it holds no key.
    """
    known = sorted(path.stem for path in folder.glob(f"*{_SUFFIX}"))
    if name is None and len(known) == 1:
        name = known[0]
    if name is None:
        raise UnknownNameError(
            "which approver are you?" if known else f"no approver's key in {folder}",
            allowed=", ".join(known) or None,
            next="name one with --as" if known else "make one with `millrace approvers add NAME`",
        )
    path = key_path(folder, name)
    if not path.is_file():
        raise UnknownNameError(
            f"no key of approver '{name}' in {folder}",
            allowed=nearest(name, known),
            next="make one with `millrace approvers add NAME`, or point MILLRACE_APPROVER_KEYS at its folder",
        )
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"others may read {path}", got=f"mode {mode:04o}", allowed="mode 0600", next=f"chmod 600 {path}"
        )
    try:
        return name, PrivateKey.from_text(path.read_text(encoding="ascii").strip())
    except (ApprovalError, ValueError):
        raise ConfigError(f"{path} holds no key", next="restore it from a copy, or enrol a new one") from None


def is_signed(public_key: str, signature: str, content: bytes) -> bool:
    """Whether the holder of the key signed exactly these bytes."""
    try:
        key = Ed25519PublicKey.from_public_bytes(decode(public_key, _KEY_BYTES))
        key.verify(decode(signature, _SIGNATURE_BYTES), content)
    except (InvalidSignature, ApprovalError):
        return False
    return True


def public_key(text: str) -> str:
    """`text`, when it is a public key.

    Raises:
        ConfigError: it is none.
    """
    try:
        Ed25519PublicKey.from_public_bytes(decode(text, _KEY_BYTES))
    except ApprovalError:
        raise ConfigError(
            "this is no public key",
            got=text,
            allowed="43 characters, as `millrace approvers add` prints them",
            next="have it sent again",
        ) from None
    return text


def encode(content: bytes) -> str:
    """URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def decode(text: str, num_bytes: int) -> bytes:
    """The bytes of `text`; each value has one spelling, so that nothing can be said twice in different ways.

    Raises:
        ApprovalError: it is not the one spelling of that many bytes.
    """
    try:
        content = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        content = b""
    if len(content) != num_bytes or encode(content) != text:
        raise ApprovalError(
            "a key or signature is not spelt as one", allowed=f"base64 of {num_bytes} bytes", next="copy all of it"
        )
    return content
