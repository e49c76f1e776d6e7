"""Half-open intervals of event time, always in UTC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Self

from millrace.errors import ConfigError

Period = Literal["day", "week", "month"]

# Nanosecond timestamps, which tables use, end here.
FIRST_TIME = datetime(1678, 1, 1, tzinfo=UTC)
LAST_TIME = datetime(2262, 1, 1, tzinfo=UTC)


def utc(value: datetime) -> datetime:
    """`value` in UTC; a naive value is taken to be UTC already."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def known_moment(value: datetime) -> datetime:
    """`value` in UTC, when tables can hold it.

    Raises:
        ConfigError: it lies outside the years 1678 to 2261, which nanosecond timestamps cover.
    """
    try:
        found = utc(value)
        if FIRST_TIME <= found < LAST_TIME:
            return found
    except OverflowError:
        pass
    raise ConfigError("a time is out of range", got=str(value), allowed="the years 1678 to 2261", next="correct it")


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """The interval [start, end) of event time."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", utc(self.start))
        object.__setattr__(self, "end", utc(self.end))
        if not self.start < self.end:  # so that pandas' NaT, which is neither before nor after, is refused too
            raise ValueError(f"a window must end after it starts, got [{self.start}, {self.end})")

    def __str__(self) -> str:
        return f"[{label(self.start)}, {label(self.end)})"

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= utc(moment) < self.end

    @property
    def key(self) -> str:
        """A name for this window that sorts by time and is safe in a path."""
        return f"{stamp(self.start)}-{stamp(self.end)}"

    @classmethod
    def asked(cls, start: datetime, end: datetime) -> Self:
        """The window that somebody asks for.

        Raises:
            ConfigError: a time is out of range, or `start` does not lie before `end`.
        """
        begin, finish = known_moment(start), known_moment(end)
        if begin >= finish:
            raise ConfigError("a window must start before it ends", got=f"{start} and {end}", next="swap them")
        return cls(begin, finish)

    @classmethod
    def from_key(cls, key: str) -> Self:
        """The window that has this `key`."""
        start, end = (utc(datetime.fromisoformat(stamp)) for stamp in key.split("-"))
        return cls(start, end)

    def as_dict(self) -> dict[str, str]:
        return {"start": self.start.isoformat(), "end": self.end.isoformat()}

    def split(self, period: Period) -> Iterator[Window]:
        """This window cut at calendar boundaries; the first and last piece may be shorter than a period."""
        start = self.start
        while start < self.end:
            end = min(period_end(start, period), self.end)
            yield Window(start, end)
            start = end


def stamp(moment: datetime) -> str:
    """`moment` as a window's key writes it."""
    fraction = f".{moment.microsecond:06d}" if moment.microsecond else ""
    return f"{moment:%Y%m%dT%H%M%S}{fraction}"


def label(moment: datetime) -> str:
    """`moment` as a person writes it: the date alone when it is midnight."""
    at_midnight = (moment.hour, moment.minute, moment.second, moment.microsecond) == (0, 0, 0, 0)
    return f"{moment:%Y-%m-%d}" if at_midnight else f"{moment:%Y-%m-%d %H:%M:%S}"


def period_start(moment: datetime, period: Period) -> datetime:
    """The calendar boundary at or before `moment`; weeks begin on Monday."""
    day = utc(moment).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return day
    if period == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1)


def period_end(moment: datetime, period: Period) -> datetime:
    """The first calendar boundary after `moment`."""
    start = period_start(moment, period)
    if period == "month":
        return (start + timedelta(days=32)).replace(day=1)
    return start + timedelta(days=1 if period == "day" else 7)


def newest_full(as_of: datetime, period: Period) -> Window:
    """The newest whole period that ended at or before `as_of`."""
    end = period_start(as_of, period)
    return Window(period_start(end - timedelta(microseconds=1), period), end)
