"""Who may ask a replica, and how often: with keys, who has one; without, who is on this machine and no foreign page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from millrace.errors import (
    ForeignRequestError,
    MillraceError,
    ServiceError,
    TooManyRequestsError,
    UnknownCallerError,
)
from millrace.keys import LOCAL, KeyFile, digest_key
from millrace.limits import HOLD_SECONDS, Limit, Limiter
from millrace.quotas import Quotas, Usage
from millrace.settings import Settings

_BEARER = b"bearer "
_LOOK_SECONDS = 0.2

#: The customer of who asks without a key, where none is demanded.
NOBODY = ""

#: Whose keys open what is about all customers; `metrics` is one to give to Prometheus.
OPERATORS = frozenset({NOBODY, LOCAL, "metrics"})

Stamp = tuple[int, int, int]


@dataclass
class Door:
    """Checks a request's headers before its body is read.

    A key is demanded where anything listens beyond loopback, and as soon as one was ever made; revoking the last one
    does not open the door again. Whether the file of the keys has changed is looked up five times a second, so
    `millrace keys` needs no restart, and a request that comes in between costs a few microseconds.

    Without keys, loopback is what protects the endpoint. But a browser is on loopback too: what a page of another
    origin sends, or a name that somebody points to 127.0.0.1, is refused.

    Rates are counted in each replica, as its share of what all of them may answer; quotas are counted in `usage`, which
    all of them share. None: there are no quotas.
    """

    keys: KeyFile
    demanded: bool
    hosts: frozenset[str]
    usage: Usage | None = None
    clock: Callable[[], float] = time.monotonic
    _looked: float = field(default=float("-inf"), init=False)
    _stamp: Stamp | None = field(default=None, init=False)
    _customers: dict[str, str | None] = field(default_factory=dict, init=False)
    _limiter: Limiter = field(default_factory=Limiter, init=False)
    _quotas: Quotas | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._limiter.clock = self.clock
        if self.usage is not None:
            self._quotas = Quotas(self.usage)

    @classmethod
    def of(cls, settings: Settings, usage: Usage | None = None) -> Door:
        """The door that the settings ask for."""
        served = urlsplit(settings.serve_url)
        hosts = {"127.0.0.1", "localhost", "[::1]", served.hostname or ""}
        return cls(KeyFile(settings.keys_path), settings.listens_elsewhere, frozenset(hosts), usage)

    def allow(self, limit: Limit | None, quota: int | None) -> None:
        """What customers may ask that have no limit or no quota of their own; None: any number."""
        self._limiter.default = limit
        if self._quotas is not None:
            self._quotas.default = quota

    def divide(self, replicas: int) -> None:
        """So many replicas answer, this one among them: each has its share of what a customer may ask."""
        self._limiter.share = 1 / replicas

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The customer whose key the request carries, or `NOBODY`.

        Raises:
            UnknownCallerError: no valid key.
            ForeignRequestError: a page of another origin asks, or it is asked under a foreign name.
            ServiceError: the file of the keys cannot be read; nobody is let in then.
        """
        self._refresh()
        authorization = host = origin = b""
        for name, value in headers:
            if name == b"authorization":
                authorization = value
            elif name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        if not self.demanded and not self._customers:
            self._require_near(host.decode("latin-1").lower(), origin.decode("latin-1").lower())
            return NOBODY
        return self._customer(authorization)

    def admit(self, customer: str) -> None:
        """One request of the customer's rate.

        Raises:
            TooManyRequestsError: the customer asks more often than it may.
        """
        if customer == NOBODY or not (wait := self._limiter.wait_of(customer)):
            return
        limit = self._limiter.limits.get(customer, self._limiter.default)
        can_be_held = limit is not None and limit.outlasts_hold
        wait = max(wait, HOLD_SECONDS) if can_be_held else wait
        raise TooManyRequestsError(
            f"customer {customer} asks too often",
            rule="limit",
            allowed=limit and f"{limit.rate:g} requests a second, {limit.burst} at once",
            next=f"ask again in {wait:.3g} s",
            retry_after=wait,
            can_be_held=can_be_held,
        )

    def spend(self, customer: str) -> None:
        """One request of the customer's quota.

        Raises:
            TooManyRequestsError: it is used up.
            ServiceError: it cannot be counted; who has a quota is not let in then.
        """
        if self._quotas is None or customer == NOBODY:
            return
        if wait := self._quotas.wait_of(customer):
            raise TooManyRequestsError(
                f"customer {customer} has used up its quota of today",
                rule="quota",
                allowed=f"{self._quotas.of(customer):,} requests a day (UTC)",
                next=f"ask again after midnight (UTC), in {wait / 3600:.1f} h, or ask who runs the service for more",
                retry_after=wait,
                can_be_held=True,
            )

    def forgive(self, customer: str) -> None:
        """The customer's newest request was not answered, and that was no fault of its own: it costs nothing."""
        if self._quotas is not None and customer != NOBODY:
            self._quotas.forgive(customer)

    def close(self) -> None:
        """Give back what was counted in advance."""
        if self._quotas is not None:
            self._quotas.close()

    def check_operator(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Whether who asks runs the service: what customers do is no customer's business.

        Raises:
            UnknownCallerError, ForeignRequestError, ServiceError: as `check`.
        """
        if (customer := self.check(headers)) not in OPERATORS:
            raise ForeignRequestError(
                "this is for who runs the service",
                got=f"a key of {customer}",
                allowed=f"a key of {' or '.join(sorted(OPERATORS - {NOBODY}))}",
            )

    def _customer(self, authorization: bytes) -> str:
        if authorization[: len(_BEARER)].lower() == _BEARER:
            found = self._customers.get(digest_key(authorization[len(_BEARER) :].strip()))
            if found is not None:
                return found
        raise UnknownCallerError(
            "this request has no valid key" if authorization else "this request has no key",
            allowed="a key as bearer token, in the header authorization",
            next="ask who runs the service for a key",
        )

    def _require_near(self, host: str, origin: str) -> None:
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if name not in self.hosts:
            raise ForeignRequestError("this service has another name", got=host, allowed=", ".join(sorted(self.hosts)))
        if origin and origin.partition("://")[2] != host:
            raise ForeignRequestError("a page of another origin may not ask this service", got=origin, allowed=host)

    def _refresh(self) -> None:
        now = self.clock()
        if now - self._looked < _LOOK_SECONDS:
            return
        stamp: Stamp | None
        try:
            found = self.keys.path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        except FileNotFoundError:
            stamp = None
        except OSError as error:
            raise ServiceError("the keys cannot be read", next="look at the replica's log") from error
        if stamp == self._stamp:
            self._looked = now
            return
        try:
            ring = self.keys.read()
        except (MillraceError, OSError) as error:
            raise ServiceError("the keys cannot be read", next="restore their file, or make new ones") from error
        self._customers = {key.digest: None if key.revoked_at else key.customer for key in ring.keys}
        self._limiter.limits = ring.limits
        if self._quotas is not None:
            self._quotas.quotas = ring.quotas
        # Only now: a file that could not be read is tried again, and nobody let in, with each request.
        self._stamp, self._looked = stamp, now
