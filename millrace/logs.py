"""Structured logging: one event a line, with the identifiers of the run that it belongs to."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

from millrace import redaction
from millrace.secrets import redact_value

LOGGER = "millrace"


def configure(level: str = "INFO", *, json_lines: bool = False, shown: str | None = None) -> None:
    """Set up logging, in an entry point; importing modules never does.

    Events go through the standard library's logger `millrace`, so that Prefect can keep a flow run's lines too. They
    are written to stderr, from level `shown` up: what a command prints on stdout is its answer, and may be JSON.
    """
    redaction.install()
    renderer: Any = structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redacted,
            renderer,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    logger = logging.getLogger(LOGGER)
    logger.setLevel(level)
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(shown or level)
    handler.setFormatter(_Line())
    handler.set_name(LOGGER)
    logger.handlers = [*(known for known in logger.handlers if known.get_name() != LOGGER), handler]
    logger.propagate = False


def _redacted(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """The event without secrets, its traceback included."""
    without: dict[str, Any] = redact_value(event)
    return without


class _Line(logging.Formatter):
    """The event as structlog rendered it: its traceback is in there already and is not written again below."""

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage()


def is_configured() -> bool:
    return structlog.is_configured()


def get_logger() -> structlog.stdlib.BoundLogger:
    """A logger that carries the identifiers bound by `identified`."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(LOGGER)
    return logger


@contextmanager
def identified(**identifiers: str) -> Iterator[None]:
    """Give each log line inside the block these identifiers (pipeline, run, version, incident, …)."""
    with structlog.contextvars.bound_contextvars(**identifiers):
        yield
