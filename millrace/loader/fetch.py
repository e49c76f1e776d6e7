"""Reads a shard from a store that fails, stalls and truncates, until it is whole, or says what is wrong.

A read that takes longer than reads have taken is not waited for: a second one begins beside it, and the first that is
whole counts (Dean and Barroso, "The tail at scale", 2013). A read that fails begins again after a random part of a
bound that doubles (full jitter: Brooker, "Exponential backoff and jitter", 2015).
"""

from __future__ import annotations

import hashlib
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from millrace.errors import ArtifactError, DigestError, MillraceError, ServiceError
from millrace.shards import Shard
from millrace.storage import ObjectStore


class Source(Protocol):
    """Where shards come from.

    `read` returns a shard's bytes, or fewer when the connection broke unseen. It raises FileNotFoundError when there is
    no such object, and anything else for what may pass. It may take for ever; it is then left behind.
    """

    @property
    def url(self) -> str: ...

    def read(self, shard: Shard) -> bytes: ...

    def local_path(self, shard: Shard) -> Path | None:
        """The shard's file when it lies on this machine already."""
        ...


@dataclass(frozen=True)
class StoreSource:
    """The object store of the platform."""

    store: ObjectStore

    @property
    def url(self) -> str:
        return self.store.url

    def read(self, shard: Shard) -> bytes:
        try:
            return self.store.read(shard.key, shard.num_bytes)
        except ArtifactError as error:
            if isinstance(error.__cause__, OSError):
                raise ConnectionError(error.what) from error  # the store's 5xx come as an OSError; they may pass
            raise FileNotFoundError(shard.key) from error

    def local_path(self, shard: Shard) -> Path | None:
        return self.store.local_path(shard.key)


@dataclass(frozen=True, slots=True)
class Policy:
    """How hard a read is tried; durations in seconds.

    At most `attempts` reads of a shard are begun, `parallel` at a time; a second one begins when the first has taken
    `hedge_factor` times what reads take, at least `hedge_seconds`; all is over after `deadline_seconds`.
    """

    attempts: int = 8
    parallel: int = 2
    hedge_factor: float = 3.0
    hedge_seconds: float = 0.1
    backoff_seconds: float = 0.1
    backoff_most_seconds: float = 10.0
    deadline_seconds: float = 120.0


class Fetcher:
    """Reads whole, checked shards from `source`. Safe to use from several threads."""

    def __init__(self, source: Source, policy: Policy | None = None, *, chance: random.Random | None = None) -> None:
        self.source, self.policy = source, policy or Policy()
        self.num_retries = self.num_hedges = 0
        self._chance = chance or random.Random()
        self._typical: float | None = None

    def fetch(self, shard: Shard) -> bytes:
        """The bytes of `shard`, as its manifest says.

        Raises:
            ArtifactError: there is no such object.
            DigestError: it is there, and has other bytes each time.
            ServiceError: no read came to an end in time.
        """
        policy, arrived = self.policy, queue.SimpleQueue[tuple[float, bytes | BaseException]]()
        began = time.monotonic()
        running = begun = failures = 0
        last: BaseException | None = None
        next_at = began
        while (now := time.monotonic()) - began < policy.deadline_seconds:
            if now >= next_at and begun < policy.attempts and running < policy.parallel:
                self.num_hedges += running > 0
                self._begin(shard, arrived.put)
                running, begun = running + 1, begun + 1
                next_at = now + self._patience()
            if running == 0 and begun == policy.attempts:
                break
            until = began + policy.deadline_seconds
            if begun < policy.attempts and running < policy.parallel:
                until = min(until, next_at)
            try:
                seconds, answer = arrived.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                continue
            running -= 1
            if isinstance(answer, bytes):
                self._typical = seconds if self._typical is None else 0.9 * self._typical + 0.1 * seconds
                return answer
            if isinstance(answer, FileNotFoundError):
                raise missing(self.source, shard) from answer
            last, failures = answer, failures + 1
            self.num_retries += 1
            if running == 0:
                most = min(policy.backoff_most_seconds, policy.backoff_seconds * 2 ** min(failures - 1, 30))
                next_at = time.monotonic() + self._chance.uniform(0, most)
        raise self._given_up(shard, begun, time.monotonic() - began, last)

    def _patience(self) -> float:
        """How long a read may take before a second one begins beside it, in seconds."""
        typical = self._typical
        return (
            self.policy.hedge_seconds
            if typical is None
            else max(self.policy.hedge_seconds, self.policy.hedge_factor * typical)
        )

    def _begin(self, shard: Shard, tell: Callable[[tuple[float, bytes | BaseException]], None]) -> None:
        def read() -> None:
            began = time.monotonic()
            try:
                content = self.source.read(shard)
                check(self.source, shard, content)
                tell((time.monotonic() - began, content))
            except BaseException as error:  # noqa: BLE001 - it is told to who waits, who judges it
                tell((time.monotonic() - began, error))

        # A thread of its own: a read that never ends must hold up neither the next one nor the end of the process.
        threading.Thread(target=read, name=f"fetch {shard.key}", daemon=True).start()

    def _given_up(self, shard: Shard, begun: int, seconds: float, last: BaseException | None) -> MillraceError:
        if isinstance(last, DigestError):
            return last
        return ServiceError(
            f"{self.source.url}/{shard.key} could not be read: {begun} reads in {seconds:.1f} s",
            got="no answer" if last is None else f"{type(last).__name__}: {last}",
            allowed=f"a whole read within {self.policy.deadline_seconds:g} s",
            next="check the store; the position is kept, start the training again when it answers",
        )


def check(source: Source, shard: Shard, content: bytes | BinaryIO) -> None:
    """Raise ConnectionError when `content` is cut short, and DigestError when it is not the shard's."""
    if isinstance(content, bytes):
        if len(content) < shard.num_bytes:
            raise ConnectionError(f"{len(content)} of {shard.num_bytes} bytes came")
        found = hashlib.sha256(content).hexdigest()
    else:
        found = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
    if found != shard.sha256:
        raise DigestError(
            f"{source.url}/{shard.key} is not the shard that was committed",
            got=f"sha256 {found}",
            allowed=f"sha256 {shard.sha256}",
            next="put its bytes back, or delete the set's prefix and stage the data again; the position is kept",
        )


def missing(source: Source, shard: Shard) -> ArtifactError:
    return ArtifactError(
        f"{source.url}/{shard.key} does not exist, and its manifest names it",
        next="put the shard back, or delete the set's prefix and stage the data again; the position is kept",
    )
