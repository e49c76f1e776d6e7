"""No way out of a process tells a secret: log records of any logger, printed lines, tracebacks, errors handed on."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator

import pydantic
import pytest

from millrace import redaction, secrets
from millrace.errors import MillraceError, SourceError
from millrace.redaction import clean, install, without_secrets

DSN = "postgresql://reader:hush-hush@db/rows"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = logging.getLogRecordFactory(), sys.excepthook, threading.excepthook
    # A test that ran a command in this process has installed the redaction already.
    logging.setLogRecordFactory(logging.LogRecord)
    yield
    logging.setLogRecordFactory(before[0])
    sys.excepthook, threading.excepthook = before[1], before[2]
    secrets.forget_all()


def logged(*arguments: object, **extra: object) -> str:
    """What a logger of somebody else's writes."""
    stream, logger = io.StringIO(), logging.Logger("theirs")
    logger.addHandler(logging.StreamHandler(stream))
    logger.error(*arguments, **extra)  # type: ignore[arg-type]
    return stream.getvalue()


def test_a_record_of_any_logger_tells_no_secret() -> None:
    assert "hush" in logged("cannot reach %s", DSN), "without redaction it does"
    install()
    install()
    assert logged("cannot reach %s", DSN) == "cannot reach postgresql://***@db/rows\n"
    assert logged("%d rows", 5) == "5 rows\n"


class _Unprintable:
    def __str__(self) -> str:
        raise RuntimeError(f"lost {DSN}")

    __repr__ = __str__


@pytest.mark.parametrize("arguments", [("%d rows", DSN), ("%s", _Unprintable()), (_Unprintable(),), ("%s %s", DSN)])
def test_a_record_that_cannot_be_written_stops_nobody_and_tells_no_secret(
    arguments: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    install()
    text = logged(*arguments)
    assert "cannot be written" in text
    assert "Error" in text
    assert "hush" not in text + capsys.readouterr().err


def test_the_traceback_of_a_record_tells_no_secret() -> None:
    install()
    try:
        raise ConnectionError(DSN)
    except ConnectionError:
        text = logged("failed", exc_info=True)
    assert "ConnectionError: postgresql://***@db/rows" in text
    assert "Traceback" in text
    assert "hush" not in text


def test_what_a_process_prints_and_dies_of_tells_no_secret() -> None:
    code = (
        "import sys, threading\nfrom millrace import redaction\nredaction.install(streams=True)\n"
        f"dsn = {DSN!r}\nprint('to', dsn)\nprint('to', dsn, file=sys.stderr)\n"
        "def fail(): raise ValueError(dsn)\n"
        "t = threading.Thread(target=fail); t.start(); t.join()\nfail()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == "to postgresql://***@db/rows\n"
    assert done.stderr.count("ValueError: postgresql://***@db/rows") == 2
    assert "hush" not in done.stderr


def told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def leaving(raiser: object) -> Exception:
    with pytest.raises(Exception) as caught, without_secrets():  # noqa: PT011
        raiser()  # type: ignore[operator]
    return caught.value


def test_an_error_without_secrets_is_left_alone() -> None:
    error = KeyError("column")

    def fail() -> None:
        raise error

    assert leaving(fail) is error
    assert error.__traceback__ is not None


def test_a_library_error_keeps_its_class() -> None:
    def fail() -> None:
        raise TimeoutError(f"no answer from {DSN}")

    error = leaving(fail)
    assert type(error) is TimeoutError
    assert "postgresql://***@db/rows" in str(error)
    assert "hush" not in told(error)


def test_ours_is_clean_with_what_caused_it() -> None:
    def fail() -> None:
        try:
            raise OSError(DSN)
        except OSError as error:
            raise SourceError("the source raised", got=str(error)) from error

    error = leaving(fail)
    assert type(error) is SourceError
    assert isinstance(error.__cause__, OSError)
    assert "hush" not in told(error)


class Row(pydantic.BaseModel):
    url: int


def bad_group() -> None:
    raise ExceptionGroup("both failed", [ValueError(DSN), KeyError("x")])


def bad_model() -> None:
    Row(url=DSN)  # type: ignore[arg-type]


def bad_line() -> None:
    raise SourceError("a line of code tells it") from ValueError(len("password='hush-hush'"))


@pytest.mark.parametrize("raiser", [bad_model, bad_group, bad_line])
def test_an_error_that_keeps_its_text_elsewhere_is_replaced(raiser: object) -> None:
    error = leaving(raiser)
    assert isinstance(error, MillraceError)
    assert "hush" not in told(error)


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = ValueError(DSN), KeyError("x")
    first.__cause__, second.__cause__ = second, first
    assert "hush" not in str(clean(first))


def test_notes_are_cleaned() -> None:
    error = ValueError("x")
    error.add_note(DSN)
    assert "hush" not in told(clean(error))


def test_a_function_may_be_guarded() -> None:
    @redaction.without_secrets()
    def fail() -> None:
        raise ValueError(DSN)

    with pytest.raises(ValueError, match=r"postgresql://\*\*\*@db/rows"):
        fail()
