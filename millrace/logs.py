"""Structured logging: one event a line, with the identifiers of the run that it belongs to."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog


def configure(level: str = "INFO", *, json_lines: bool = False) -> None:
    """Set up logging once, in an entry point; importing modules never does."""
    renderer: Any = structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        # stderr: what a command prints on stdout is its answer, and may be JSON.
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_logger() -> structlog.stdlib.BoundLogger:
    """A logger that carries the identifiers bound by `identified`."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger


@contextmanager
def identified(**identifiers: str) -> Iterator[None]:
    """Give each log line inside the block these identifiers (pipeline, run, version, incident, …)."""
    with structlog.contextvars.bound_contextvars(**identifiers):
        yield
