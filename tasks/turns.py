"""Seeing to many things in turn, none of which keeps the others waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from millrace.errors import MillraceError, ServiceError

T = TypeVar("T")


def each_in_turn(items: Iterable[T], work: Callable[[T], None]) -> None:
    """Do `work` for each item; what fails for one is raised when the others have had their turn.

    Raises:
        ServiceError: a service is away; at once, as the others would fare no better.
        MillraceError: what failed first.
    """
    failed: MillraceError | None = None
    for item in items:
        try:
            work(item)
        except ServiceError:
            raise
        except MillraceError as error:
            failed = failed or error
    if failed is not None:
        raise failed
