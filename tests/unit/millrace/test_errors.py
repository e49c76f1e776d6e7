"""The tree of errors is the one drawn at the top of its module, and its members travel between processes whole."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import errors
from millrace.errors import ConfigError, MillraceError, RequestError, RequestTooLargeError, nearest, shorten

LINE = re.compile(r"^ {4}(?P<branch>[│├└─ ]*)(?P<name>\w+Error)\s+(?P<exit>\d+)\s+(?P<http>\d+)\s+(?P<retry>yes|no)\b")
CLASSES = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, MillraceError) and found is not MillraceError
]


def drawn() -> dict[str, tuple[str, int, int, bool]]:
    """name -> (parent, exit code, HTTP status, retryable), as the docstring draws it."""
    result: dict[str, tuple[str, int, int, bool]] = {}
    path: list[str] = ["MillraceError"]
    for line in (errors.__doc__ or "").splitlines():
        match = LINE.match(line)
        if match:
            depth = len(match["branch"]) // 4
            path[depth:] = [match["name"]]
            result[match["name"]] = (path[depth - 1], int(match["exit"]), int(match["http"]), match["retry"] == "yes")
    return result


def test_the_drawing_has_every_class_and_no_other() -> None:
    assert set(drawn()) == {cls.__name__ for cls in CLASSES}


@pytest.mark.parametrize("cls", CLASSES)
def test_a_class_is_what_the_drawing_says(cls: type[MillraceError]) -> None:
    found = (cls.__bases__[0].__name__, cls.exit_code, cls.http_status, cls.retryable)
    assert found == drawn()[cls.__name__]


@pytest.mark.parametrize("cls", [MillraceError, *CLASSES])
def test_errors_survive_pickling_with_all_their_parts(cls: type[MillraceError]) -> None:
    error = cls("it broke", got={"a": 1}, allowed="b", next="mend it")
    if isinstance(error, RequestError):
        error = type(error)("it broke", field="/rows/0", rule="range", got={"a": 1}, allowed="b", next="mend it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert vars(again) == vars(error)
    assert str(again) == str(error) == again.message
    assert again.args == error.args


def test_a_message_says_what_got_allowed_and_next() -> None:
    error = ConfigError("x is wrong", got="seven", allowed="1 to 5", next="write 5")
    assert str(error) == "x is wrong\n  got: 'seven'\n  allowed: 1 to 5\n  next: write 5"


def test_parts_that_are_not_given_are_not_written() -> None:
    assert str(ConfigError("x is wrong")) == "x is wrong"
    assert str(ConfigError("x is wrong", next="write 5")) == "x is wrong\n  next: write 5"


@pytest.mark.parametrize("value", [0, "", False, []])
def test_an_empty_value_is_shown_as_what_was_got(value: object) -> None:
    assert f"got: {value!r}" in str(ConfigError("x is wrong", got=value))


def test_what_was_got_is_cut() -> None:
    error = ConfigError("too long", got="a" * 10_000)
    assert error.got is not None
    assert len(error.got) < 300
    assert "9802 more characters" in error.got


def test_a_request_error_says_where_and_which_rule() -> None:
    error = RequestTooLargeError("too many rows", field="/rows", rule="max_rows")
    assert (error.field, error.rule) == ("/rows", "max_rows")
    assert isinstance(error, RequestError)


@given(text=st.text(max_size=60), limit=st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_shorten_keeps_the_beginning_and_counts_the_rest(text: str, limit: int) -> None:
    short = shorten(text, limit)
    if len(text) <= limit:
        assert short == text
    else:
        assert short == f"{text[:limit]}… ({len(text) - limit} more characters)"


def test_nearest_names_the_close_match_else_what_there_is() -> None:
    assert nearest("epoch", ["epochs", "seed"]) == "did you mean 'epochs'?"
    assert nearest("zzz", ["b", "a"]) == "one of: a, b"
    assert nearest("zzz", []) == "nothing is defined yet"
    assert nearest("zzz", [f"n{i:02}" for i in range(14)]).endswith("n11, … (2 more)")
