"""Every error Millrace raises on purpose.

    MillraceError                 exit  http  retry
    ├── ConfigError                 2    422   no    something a person wrote is wrong
    │   ├── SettingsError           2    500   no    a service URL, folder or secret
    │   ├── SpecError               2    422   no    a field of pipeline.yaml
    │   └── UnknownNameError             2    404   no    a pipeline, version or option that does not exist
    ├── DataError                   3    422   no    rows or artifacts are not what they must be
    │   ├── SourceError             3    422   no    a pipeline's source raised or returned the wrong table
    │   ├── QuarantineError         3    422   no    more bad rows than the spec allows
    │   ├── DigestError             3    500   no    stored bytes differ from their manifest
    │   ├── SignatureError          3    500   no    nobody whom this installation trusts has signed the manifest
    │   └── ArtifactError           3    500   no    an artifact is absent or cannot be read
    ├── ServiceError                4    503   yes   a part of the stack does not answer
    │   ├── OverloadedError         4    503   yes   a request that would not be answered in time
    │   └── PortTakenError          4    503   no    another process listens where ours should
    ├── TrainingError               5    500   no    the trainer gave up
    ├── PackageError                6    500   no    a model package cannot be served
    ├── ConflictError               7    409   yes   somebody else holds what this run needs
    │   └── FencedError             7    409   no    this run no longer holds the pipeline it is about to change
    ├── ApprovalError               8    403   no    an approval that does not count
    └── RequestError                2    422   no    a prediction request breaks the feature contract
        ├── RequestTooLargeError         2    413   no    more rows or bytes than the spec allows
        ├── ContentEncodingError         2    415   no    a body that is compressed
        ├── UnknownCallerError           2    401   no    a request without a valid key
        ├── TooManyRequestsError         2    429   yes   a customer who asks more often than it may
        └── ForeignRequestError          2    403   no    a request that a page of another origin sends

A message says what is wrong, what was got, what is allowed and what to do next. Library errors are mapped to
this tree once, where the library is called.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from millrace.secrets import redact

_MAX_GOT_CHARS = 200


class MillraceError(Exception):
    """Base of the tree: `what` happened, what it `got`, what is `allowed`, what to do `next`."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, what: str, *, got: object = None, allowed: str | None = None, next: str | None = None) -> None:
        # Texts of libraries and of people's own code come in here, and go out to logs, states, databases and terminals.
        self.what = redact(what)
        self.got = None if got is None else shorten(redact(shown(got)))
        self.allowed = None if allowed is None else redact(allowed)
        self.next = None if next is None else redact(next)
        super().__init__(self.message)

    @property
    def message(self) -> str:
        parts = [self.what]
        if self.got is not None:
            parts.append(f"got: {self.got}")
        if self.allowed is not None:
            parts.append(f"allowed: {self.allowed}")
        if self.next is not None:
            parts.append(f"next: {self.next}")
        return "\n  ".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        # Ray and multiprocessing carry errors between processes; the default would call cls(message).
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(cls: type[MillraceError], state: dict[str, object]) -> MillraceError:
    error = cls.__new__(cls)
    error.__dict__.update(state)
    Exception.__init__(error, error.message)
    return error


class ConfigError(MillraceError):
    exit_code = 2
    http_status = 422


class SettingsError(ConfigError):
    http_status = 500


class SpecError(ConfigError):
    pass


class UnknownNameError(ConfigError):
    http_status = 404


class DataError(MillraceError):
    exit_code = 3
    http_status = 422


class SourceError(DataError):
    pass


class QuarantineError(DataError):
    pass


class DigestError(DataError):
    http_status = 500


class SignatureError(DataError):
    http_status = 500


class ArtifactError(DataError):
    http_status = 500


class ServiceError(MillraceError):
    exit_code = 4
    http_status = 503
    retryable = True


class OverloadedError(ServiceError):
    """More is asked than can be answered in time; `retry_after` is in seconds."""

    def __init__(self, what: str, *, retry_after: float = 1.0, **told: Any) -> None:
        self.retry_after = retry_after
        super().__init__(what, **told)


class PortTakenError(ServiceError):
    retryable = False


class TrainingError(MillraceError):
    exit_code = 5


class PackageError(MillraceError):
    exit_code = 6


class ConflictError(MillraceError):
    exit_code = 7
    http_status = 409
    retryable = True


class FencedError(ConflictError):
    retryable = False


class ApprovalError(MillraceError):
    exit_code = 8
    http_status = 403


class RequestError(MillraceError):
    """A prediction request that breaks the contract; `field` is a JSON pointer into the request body."""

    exit_code = 2
    http_status = 422

    def __init__(
        self,
        what: str,
        *,
        field: str = "",
        rule: str = "",
        got: object = None,
        allowed: str | None = None,
        next: str | None = None,
    ) -> None:
        self.field = field
        self.rule = rule
        super().__init__(what, got=got, allowed=allowed, next=next)


class RequestTooLargeError(RequestError):
    http_status = 413


class ContentEncodingError(RequestError):
    http_status = 415


class UnknownCallerError(RequestError):
    http_status = 401


class TooManyRequestsError(RequestError):
    """`retry_after` is in seconds; `can_be_held`: the ingress may refuse the customer's next ones by itself."""

    http_status = 429
    retryable = True

    def __init__(self, what: str, *, retry_after: float = 1.0, can_be_held: bool = False, **told: Any) -> None:
        self.retry_after, self.can_be_held = retry_after, can_be_held
        super().__init__(what, **told)


class ForeignRequestError(RequestError):
    http_status = 403


def error_named(name: str, message: str) -> MillraceError | None:
    """The error of ours with this class name, as it was told in another process; None when it is none of ours."""
    kinds = {kind.__name__: kind for kind in _subclasses(MillraceError)}
    return kinds[name](message) if name in kinds and not name.startswith("Request") else None


def _subclasses(kind: type[MillraceError]) -> Iterator[type[MillraceError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def shown(value: object) -> str:
    """`repr(value)`, or what it is when it has none: Python refuses to write integers of many thousand digits."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a foreign object's repr may raise anything, and an error must not hide another
        return f"<a value of type {type(value).__name__} that cannot be written>"


def shorten(text: str, limit: int = _MAX_GOT_CHARS) -> str:
    """`text` cut to `limit` characters, saying how many were left out."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


def nearest(name: str, known: Iterable[str], limit: int = 12) -> str:
    """What may be written instead of `name`: its close match first, else the known names."""
    names = sorted(known)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if match:
        return f"did you mean '{match[0]}'?"
    listed = ", ".join(names[:limit])
    more = f", … ({len(names) - limit} more)" if len(names) > limit else ""
    return f"one of: {listed}{more}" if names else "nothing is defined yet"
