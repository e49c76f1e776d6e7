"""What is secret is taken out of every text that leaves a process: by value where it is known, else by its shape.

Known are the values that `remember` was told: secret settings, the contents of key files, resolved `${ENV:NAME}`
references, and environment variables whose name says that they are secret. Shapes are passwords in URLs, credentials in
HTTP headers, `password=` and its like, private keys, bearer tokens, and the tokens that well-known services give out.
Redacting twice changes nothing more, and a text without secrets stays as it is.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"

#: Shorter values are not looked for: they stand in innocent text too.
MIN_KNOWN_CHARS = 6

#: How a text names a secret instead of holding it: resolved only where it is used.
REFERENCE = re.compile(r"\$\{ENV:([A-Za-z_][A-Za-z0-9_]*)\}")

_NAMES = (
    r"pass(?:word|wd|phrase)|\bpass(?==)|pwd|\bpsk|secret(?:[_-]?key)?|credentials?|token|auth[_-]?string"
    r"|(?:api|access|account|private|signing|subscription|encryption)[_-]?key|x-(?:amz|goog)-signature|\bsig(?==)"
)
# A plural counts them.
_SECRET_NAME = re.compile(rf"(?:{_NAMES})(?![a-z])", re.IGNORECASE)
# A secret's whereabouts are none.
_NO_SECRET_NAME = re.compile(r"(?:_|-|\b)(?:file|path|url|uri|id|name|type|mode|count|dir)$", re.IGNORECASE)

# What the shell calls its working directories.
_FOLDERS = ("PWD", "OLDPWD")

# A text that has none of these, in lower case, has no secret of a known shape.
_TRIGGERS = (
    "://", "pass", "pwd", "psk", "secret", "credential", "token", "key", "auth", "signature", "sig=", "cookie",
    "identified by", "bearer", "basic", "eyj", "akia", "asia", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_",
    "glpat-", "xox", "aiza", "sk-", "hf_", "pnu_", "dapi",
)  # fmt: skip

_known: dict[str, None] = {}
_known_pattern: re.Pattern[str] | None = None


def remember(*values: str) -> None:
    """Take these values out of all later texts, in the forms in which they travel: plain, quoted, base64, hex."""
    global _known_pattern  # noqa: PLW0603 - what is secret is a fact of the whole process
    before = len(_known)
    for value in values:
        for form in _forms(value) if len(value) >= MIN_KNOWN_CHARS and value != MASK else ():
            _known[form] = None
    if len(_known) > before:
        longest_first = sorted(_known, key=len, reverse=True)
        _known_pattern = re.compile("|".join(map(re.escape, longest_first)))


def forget_all() -> None:
    """Know no value any more; shapes are still seen."""
    global _known_pattern  # noqa: PLW0603
    _known.clear()
    _known_pattern = None


def remember_environment(environment: Mapping[str, str]) -> None:
    """Remember the values of variables whose name says that they are secret, and passwords in URLs."""
    for name, value in environment.items():
        if is_secret_name(name):
            # PREFECT_API_AUTH_STRING and its like hold user:password.
            remember(value, value.partition(":")[2])
        remember(*url_passwords(value))


def url_passwords(text: str) -> list[str]:
    """The passwords of the URLs in `text`."""
    found = (match["user"].partition(":")[2] for match in _URL.finditer(text))
    return [password for password in found if password and password != MASK]


def is_secret_name(name: str) -> bool:
    """Whether what bears this name is a secret itself (not the path of one)."""
    return _SECRET_NAME.search(name) is not None and _NO_SECRET_NAME.search(name) is None and name not in _FOLDERS


def redact(text: str) -> str:
    """`text` without secrets."""
    if _known_pattern is not None:
        text = _known_pattern.sub(MASK, text)
    return _without_shapes(text)


def _without_shapes(text: str) -> str:
    lower = text.lower()
    if not any(trigger in lower for trigger in _TRIGGERS):
        return text
    for pattern, replace in _SHAPES:
        text = pattern.sub(replace, text)
    return text


def redact_value(value: Any) -> Any:
    """`value` with every text in it redacted; in mappings, what a secret's name stands before is masked as a whole."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            redact(key) if isinstance(key, str) else key: MASK
            if isinstance(item, str) and item and isinstance(key, str) and is_secret_name(key)
            else redact_value(item)
            for key, item in value.items()
        }
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(redact_value(item) for item in value)
    if isinstance(value, list):
        return [redact_value(item) for item in value]
    return value


def secret_fields(value: Any, path: str) -> list[str]:
    """Dotted paths below `path` at which `value` holds a secret itself, where a reference should stand."""
    if isinstance(value, str):
        # By shape only: a weak password that is known (`postgres`) may stand in an innocent text.
        return [] if _without_shapes(plain := REFERENCE.sub("", value)) == plain else [path]
    if isinstance(value, Mapping):
        return [
            found
            for key, item in value.items()
            for found in (
                [f"{path}.{key}"]
                if isinstance(item, str) and REFERENCE.sub("", item) and is_secret_name(str(key))
                else secret_fields(item, f"{path}.{key}")
            )
        ]
    if isinstance(value, list | tuple):
        return [found for number, item in enumerate(value) for found in secret_fields(item, f"{path}[{number}]")]
    return []


def secret_texts(value: Any, path: str) -> list[str]:
    """As `secret_fields`, whatever the names in `value` say."""
    if isinstance(value, Mapping):
        return [found for key, item in value.items() for found in secret_texts(item, f"{path}.{key}")]
    if isinstance(value, list | tuple):
        return [found for number, item in enumerate(value) for found in secret_texts(item, f"{path}[{number}]")]
    return secret_fields(value, path)


def resolve(value: Any, environment: Mapping[str, str] = os.environ) -> Any:
    """`value` with its `${ENV:NAME}` references replaced by what the environment holds, which is remembered.

    Raises:
        KeyError: a variable is not set; its argument is the name.
    """
    if isinstance(value, str):
        for name in REFERENCE.findall(value):
            remember(environment[name])
        return REFERENCE.sub(lambda match: environment[match[1]], value)
    if isinstance(value, Mapping):
        return {key: resolve(item, environment) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(resolve(item, environment) for item in value)
    return value


def _forms(value: str) -> Iterable[str]:
    raw = value.encode(errors="surrogatepass")
    yield from {
        value,
        repr(value)[1:-1],
        json.dumps(value)[1:-1],
        quote(raw, safe=""),
        quote(raw),
        quote_plus(raw),
        raw.hex(),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    }


def _mask_value(match: re.Match[str]) -> str:
    """Keep the name and the quotation marks, mask the value; a fencing token is a number and stays."""
    name, value = match["name"], match["quoted"] or match["plain"] or ""
    if value.lower() in (MASK, "none", "null", "") or _NO_SECRET_NAME.search(name):
        return match[0]
    if name.lower() == "token" and value.isdigit():
        return match[0]
    mark = match["mark"] or ""
    return f"{match['before']}{mark}{MASK}{mark if match[0].endswith(mark) else ''}"


def _mask_basic(match: re.Match[str]) -> str:
    """`Basic` is a word too: what follows must be the base64 of user:password."""
    try:
        decoded = base64.b64decode(match[2] + "=" * (-len(match[2]) % 4))
    except (ValueError, binascii.Error):
        return match[0]
    return f"{match[1]}{MASK}" if b":" in decoded else match[0]


def _mask_user(match: re.Match[str]) -> str:
    """A user's name alone is no secret; a password is, and so is a name as long as a token."""
    user, _, password = match["user"].partition(":")
    return f"://{MASK}@" if (password and password != MASK) or len(user) > 15 else match[0]


# A string with its marks, which may be escaped where it is quoted within another; cut text may lack the last.
_MARKED = r"""(?P<mark>\\*["'])(?P<quoted>(?:(?!(?P=mark))(?:\\.|[^\r\n]))*)(?:(?P=mark)|(?=[\r\n]|\Z))"""
_BEFORE_MARKED = r"""(?:b(?=["']))?"""
_URL = re.compile(
    r"""://(?P<user>[^\s/?#@'"<>:]{0,256}(?::(?!\d{1,5}[/?#])[^\s'"<>]{0,1024}?)?)@(?![^\s/?#'"<>]{0,1024}@)"""
)
_SHAPES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (
        re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        MASK,
    ),
    (_URL, _mask_user),
    # A header as text, in a dict's repr, in a tuple's: what follows its name.
    (
        re.compile(
            rf"""(?P<before>\b(?P<name>(?:proxy-)?authorization)\b\\*["']?\s*[:=,]\s*{_BEFORE_MARKED})"""
            rf"""(?:{_MARKED}|(?P<plain>digest\s[^\r\n]*|(?:[A-Za-z]+[ ]+)?[^\s"',)\]}}]+))""",
            re.IGNORECASE,
        ),
        _mask_value,
    ),
    (
        re.compile(
            rf"""(?P<before>\b(?P<name>(?:set-)?cookie)\b\\*["']?\s*[:=,]\s*{_BEFORE_MARKED})"""
            rf"""(?:{_MARKED}|(?P<plain>[^\r\n]*))""",
            re.IGNORECASE,
        ),
        _mask_value,
    ),
    # NAME=value, "NAME": "value", ('NAME', 'value'), --NAME value.
    (
        re.compile(
            rf"""(?P<before>(?P<name>(?:{_NAMES})(?![a-z])[\w-]{{0,40}})"""
            rf"""\\*["']?\s*(?:=>|[:=]|,(?=\s*b?\\*["']))\s*{_BEFORE_MARKED})"""
            rf"""(?:{_MARKED}|(?P<plain>[^\s"'&,;(){{}}\[\]<>|\\]+))""",
            re.IGNORECASE,
        ),
        _mask_value,
    ),
    (
        re.compile(
            rf"""(?P<before>(?P<name>--[\w-]{{0,40}}(?:{_NAMES})(?![a-z])[\w-]{{0,40}}|\bidentified\s+by)\s+)"""
            rf"""(?:{_MARKED}|(?P<plain>[^\s"'-][^\s"']*))""",
            re.IGNORECASE,
        ),
        _mask_value,
    ),
    (re.compile(r"(\bbearer\s+)[A-Za-z0-9._~+/=-]{12,}", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"(\bbasic\s+)([A-Za-z0-9+/]{8,}={0,2})", re.IGNORECASE), _mask_basic),
    (re.compile(r"\beyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?"), MASK),
    (re.compile(r"\bA(?:KIA|SIA)[A-Z0-9]{16}\b"), MASK),
    (
        re.compile(
            r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}"
            r"|AIza[\w-]{30,}|sk-[\w-]{20,}|hf_[A-Za-z0-9]{20,}|pnu_[A-Za-z0-9]{20,}|dapi[0-9a-f]{28,})"
        ),
        MASK,
    ),
)
