"""Redaction at a process's ways out: its logs, its printed lines, its tracebacks, and the errors that it hands on."""

from __future__ import annotations

import copy
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

from millrace import secrets
from millrace.errors import MillraceError, shown
from millrace.secrets import redact


def install(*, streams: bool = False) -> None:
    """Have every log record and every uncaught error of this process redacted; with `streams`, all that it prints too.

    For entry points: a command, a flow run, a worker of the cluster. Installing twice is installing once.
    """
    secrets.remember_environment(os.environ)
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _RecordFactory):
        logging.setLogRecordFactory(_RecordFactory(factory))
    sys.excepthook = _print_error
    threading.excepthook = lambda told: _print_error(told.exc_type, told.exc_value, told.exc_traceback)
    if streams:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and not isinstance(stream, RedactedStream):
                setattr(sys, name, RedactedStream(stream))


@contextmanager
def without_secrets() -> Iterator[None]:
    """Errors leave the block, or the function that this decorates, without secrets in them or in what caused them."""
    try:
        yield
    except Exception as error:
        cleaned = clean(error)
        if cleaned is error:
            raise
        raise cleaned from cleaned.__cause__


def clean(error: BaseException) -> BaseException:
    """`error` itself when neither it, its causes nor its traceback tell a secret; else one that tells none."""
    told = "".join(traceback.format_exception(error))
    without = redact(told)
    return error if without == told else _cleaned(error, set())


def _cleaned(error: BaseException, seen: set[int]) -> BaseException:
    seen.add(id(error))
    error.args = tuple(secrets.redact_value(argument) for argument in error.args)
    if notes := getattr(error, "__notes__", None):
        error.__notes__ = [redact(str(note)) for note in notes]
    result = _stand_in(error) if _still_tells(error) else error
    for name in ("__cause__", "__context__"):
        link = getattr(error, name)
        # A chain may bite its own tail.
        setattr(result, name, _cleaned(link, seen) if link is not None and id(link) not in seen else None)
    result.__suppress_context__ = error.__suppress_context__
    return result


def _still_tells(error: BaseException) -> bool:
    """Some keep their text elsewhere than in `args` (pydantic, SQLAlchemy, httpx); a line of code may tell as well."""
    told = (str(error), repr(error), "".join(traceback.format_tb(error.__traceback__)))
    return isinstance(error, BaseExceptionGroup) or any(redact(text) != text for text in told)


def _stand_in(error: BaseException) -> BaseException:
    """An error without the traceback; of ours the class stays, as it gives the exit code."""
    if isinstance(error, MillraceError):
        return copy.copy(error)
    return MillraceError(f"{type(error).__name__}: {error}")


class RedactedStream:
    """A text stream that redacts what is written to it; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _RecordFactory:
    """Makes log records whose text and traceback tell no secret, whichever handler formats them."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._make(*args, **kwargs)
        try:
            told = record.getMessage()
        except Exception as error:  # noqa: BLE001 - a foreign object may raise anything, and whoever logs must go on
            told = f"{shown(record.msg)} cannot be written: {type(error).__name__}: {shown(error)}"
            record.msg, record.args = told, ()
        without = redact(told)
        if without != told:
            record.msg, record.args = without, ()
        if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
            lines = logging.Formatter().formatException(record.exc_info)
            if (redacted := redact(lines)) != lines:
                record.exc_text, record.exc_info = redacted, None
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return record


def _print_error(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, /) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
