"""Sending traces to a collector of OpenTelemetry, in a thread of its own that nobody ever waits for."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from millrace.errors import ServiceError
from millrace.faults import fault_point
from millrace.traces.otlp import request_body, spans_of
from millrace.traces.quiet import Quiet
from millrace.traces.records import Block

_log = logging.getLogger(__name__)

#: Blocks that wait for the collector; the oldest make room.
_MOST_BLOCKS = 256
#: Blocks in one request, about half a megabyte.
_AT_ONCE = 8
#: How long the first block waits for others: a request to the collector costs more than what it carries.
_GATHER_SECONDS = 1.0
_YIELD_SECONDS = 0.001
_TIMEOUT_SECONDS = 5.0
_TRIES = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
#: Answers after which the protocol has a client send again.
_AGAIN = frozenset({408, 429, 502, 503, 504})


class Exporter:
    """POSTs traces to `url`/v1/traces. `resource` says who answered: `service.name` and the like.

    What cannot be sent is tried again after 1 s, then 2, up to 30 s; after five tries it is dropped. `lost` counts the
    requests whose traces were dropped, be it here or because too many waited.
    """

    def __init__(
        self,
        url: str,
        resource: Mapping[str, str],
        *,
        most_blocks: int = _MOST_BLOCKS,
        gather_seconds: float = _GATHER_SECONDS,
        first_pause: float = _FIRST_PAUSE,
    ) -> None:
        self.lost = 0
        self._url = f"{url.rstrip('/')}/v1/traces"
        self._resource = dict(resource)
        self._blocks: deque[Block] = deque(maxlen=most_blocks)
        self._gather_seconds, self._first_pause = gather_seconds, first_pause
        self._warn = Quiet(_log)
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        self._some, self._hurry, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="trace-export", daemon=True)
        self._thread.start()

    def offer(self, block: Block) -> None:
        """Send it when there is time. One thread calls this."""
        with self._lock:
            oldest = self._blocks[0] if len(self._blocks) == self._blocks.maxlen else None
            self._blocks.append(block)
            self._idle.clear()
        if oldest is not None:
            self._lose(len(oldest), "too many wait for it")
        self._some.set()

    def flush(self, seconds: float) -> bool:
        """Send what waits now, and wait for that, `seconds` at the most; whether nothing waits any more."""
        self._hurry.set()
        return self._idle.wait(seconds)

    def close(self) -> None:
        """Send what waits, as long as the collector takes it at once, and stop."""
        self._closing.set()
        self._hurry.set()
        self._some.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(timeout=_TIMEOUT_SECONDS, headers={"content-type": "application/x-protobuf"}) as client:
            while True:
                self._some.wait()
                self._hurry.wait(self._gather_seconds)
                self._some.clear()
                while blocks := self._next():
                    try:
                        self._deliver(client, blocks)
                    except Exception as error:  # noqa: BLE001 - the thread must go on whatever is wrong
                        self._lose(sum(map(len, blocks)), f"{type(error).__name__}: {error}")
                with self._lock:
                    if self._blocks:
                        continue
                    self._idle.set()
                    self._hurry.clear()
                if self._closing.is_set():
                    return

    def _next(self) -> list[Block]:
        with self._lock:
            return [self._blocks.popleft() for _ in range(min(len(self._blocks), _AT_ONCE))]

    def _deliver(self, client: httpx.Client, blocks: list[Block]) -> None:
        number, pause = sum(map(len, blocks)), self._first_pause
        body = request_body(self._encoded(blocks), self._resource)
        for _ in range(_TRIES):
            why, wait = self._send(client, body)
            if why is None:
                return
            self._warn(f"the collector at {self._url} does not take traces: {why}")
            if wait is None or self._closing.is_set():
                break
            # Not all replicas at once when it comes back.
            self._closing.wait(min(max(wait, pause * random.uniform(0.5, 1.0)), _LONGEST_PAUSE))
            pause *= 2
        self._lose(number, why or "")
        if self._closing.is_set():
            # Nobody waits for a collector that is away.
            while blocks := self._next():
                self._lose(sum(map(len, blocks)), why or "")

    def _encoded(self, blocks: list[Block]) -> Iterator[bytes]:
        for block in blocks:
            yield spans_of(block)
            # Requests wait for the interpreter meanwhile; there is time between two blocks.
            time.sleep(_YIELD_SECONDS)

    def _send(self, client: httpx.Client, body: bytes) -> tuple[str | None, float | None]:
        """What went wrong, or None; and after how many seconds to try again at the earliest, None: never."""
        try:
            with fault_point("traces.export"):
                answer = client.post(self._url, content=body)
        except (httpx.HTTPError, ServiceError) as error:
            return f"{type(error).__name__}: {error}", 0.0
        if answer.is_success:
            self._heed(answer)
            return None, None
        after = answer.headers.get("retry-after", "")
        return f"status {answer.status_code}", (
            (float(after) if after.isdecimal() else 0.0) if answer.status_code in _AGAIN else None
        )

    def _heed(self, answer: httpx.Response) -> None:
        """A collector may take a part and say so."""
        if not answer.content or answer.headers.get("content-type") != "application/x-protobuf":
            return
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

        rejected: Any = ExportTraceServiceResponse.FromString(answer.content).partial_success
        if rejected.rejected_spans:
            self._warn(
                f"the collector at {self._url} refused {rejected.rejected_spans} spans: {rejected.error_message}"
            )

    def _lose(self, number: int, why: str) -> None:
        with self._lock:
            self.lost += number
        self._warn(f"{self.lost} traces were not sent to the collector at {self._url} so far: {why}")
