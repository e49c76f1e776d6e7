"""A collector of OpenTelemetry, in short: it takes traces over HTTP and decodes them by the official classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Collector:
    """`requests` are those that it has taken. `answers` are the statuses of its next answers; without any it says 200.
    With `rejected` it says that it did not take so many spans."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[ExportTraceServiceRequest] = []
        self.answers: list[int] = []
        self.rejected = 0
        self.seen: list[tuple[str, str]] = []

    @property
    def spans(self) -> list[Any]:
        """All spans that were taken, in order."""
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def answer(self, path: str, content_type: str, body: bytes) -> tuple[int, bytes]:
        self.seen.append((path, content_type))
        status = self.answers.pop(0) if self.answers else 200
        if status == 200:
            self.requests.append(ExportTraceServiceRequest.FromString(body))
        part = ExportTracePartialSuccess(rejected_spans=self.rejected, error_message="too old")
        return status, ExportTraceServiceResponse(partial_success=part).SerializeToString()


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, answer = collector.answer(self.path, self.headers["content-type"], body)
            self.send_response(status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
