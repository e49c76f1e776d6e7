"""How much Millrace answers beside other servers of the same model: a closed loop, in alternating rounds.

In a round each server is started, asked for the fixture's rows (a wrong answer ends the benchmark), warmed, loaded over
1, 16 and 64 connections, and stopped: it has the machine for itself. A fresh process in each round, so the luck of one
start is in no figure alone; the order is turned round in every other round, so what drifts with time favours nobody.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.parts import Tell
from benchmarks.serving.figures import shares, spread
from benchmarks.serving.fixture import Fixture, make_fixture
from benchmarks.serving.load import Closed, client_name, closed_loop
from benchmarks.serving.millrace_server import serving_millrace
from benchmarks.serving.options import Options
from benchmarks.serving.peers.environment import PeerError
from benchmarks.serving.peers.process import serving
from benchmarks.serving.peers.registry import BARE_RAY, FASTAPI, PEERS, SERVERS
from benchmarks.serving.target import Target

MILLRACE = "millrace"
CONNECTIONS = (1, 16, 64)

_WARM_SECONDS = 1.0
_WARM_CONNECTIONS = 16
#: A server that has just started is still at work, most of all one that brings a stack. It is loaded once the machine
#: uses less than this of its cores, or after so many looks of a second.
_CALM_SHARE = 0.1
_CALM_LOOKS = 15

#: Of each server and number of connections, one measurement a round.
Measured = dict[str, dict[int, list[Closed]]]
#: Of each server, the cores that were busy before its load, one figure a round.
Idle = dict[str, list[float]]
Start = Callable[[], AbstractContextManager[Target]]


def measure(options: Options, tell: Tell) -> dict[str, Any]:
    """All servers, `options.rounds` times.

    Raises:
        PeerError: FastAPI or bare Ray Serve cannot be measured: there is nothing to compare with.
        WrongAnswerError: a server does not answer as the model does.
    """
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        starts = _starts(make_fixture(Path(folder)))
        measured, idle, missing = _rounds(starts, options, tell)
    about = {"peers_missing": missing, "rounds": options.rounds, "load_client": client_name()}
    return {**summary(measured), "idle_cores": {name: spread(cores) for name, cores in idle.items()}, **about}


def _starts(fixture: Fixture) -> dict[str, Start]:
    """How each is started; Millrace last, beside those that it is compared with."""
    starts: dict[str, Start] = {peer.name: partial(serving, peer, fixture) for peer in PEERS}
    return {**starts, MILLRACE: partial(_millrace, fixture)}


@contextmanager
def _millrace(fixture: Fixture) -> Iterator[Target]:
    with serving_millrace(fixture) as server:
        yield server.target


def _rounds(starts: dict[str, Start], options: Options, tell: Tell) -> tuple[Measured, Idle, dict[str, str]]:
    measured: Measured = defaultdict(lambda: defaultdict(list))
    idle: Idle = defaultdict(list)
    missing: dict[str, str] = {}
    for number in range(options.rounds):
        names = [name for name in starts if name not in missing]
        for name in names if number % 2 == 0 else names[::-1]:
            try:
                with starts[name]() as target:
                    target.check()
                    cores = _settle()
                    closed_loop(target, _WARM_CONNECTIONS, _WARM_SECONDS)
                    found = {count: closed_loop(target, count, options.seconds) for count in CONNECTIONS}
            except PeerError as error:
                if name in (FASTAPI.name, BARE_RAY.name):
                    raise
                missing[name] = str(error)
                measured.pop(name, None)
                idle.pop(name, None)
                tell(f"round {number + 1}, {name}: not measured: {error}")
                continue
            idle[name].append(cores)
            for count, closed in found.items():
                measured[name][count].append(closed)
            rates = ", ".join(f"{closed.requests_per_second:,.0f}" for closed in found.values())
            tell(f"round {number + 1}, {name}: {rates} requests/s; p50 alone {found[1].p50_ms:.2f} ms")
    return measured, idle, missing


def _settle() -> float:
    """Wait until the machine is calm; the cores that are busy then, by whatever runs on it."""
    share = 1.0
    for _ in range(_CALM_LOOKS):
        share = psutil.cpu_percent(interval=1.0) / 100
        if share < _CALM_SHARE:
            break
    return share * (os.cpu_count() or 1)


def summary(measured: Measured) -> dict[str, Any]:
    """The figures: medians over the rounds, shares taken round by round."""
    rates = {name: {count: _rates(found) for count, found in counts.items()} for name, counts in measured.items()}
    ours = rates[MILLRACE][16]
    of_fastapi, of_bare = (shares(ours, rates[peer.name][16]) for peer in (FASTAPI, BARE_RAY))
    alone, bare = (measured[name][1] for name in (MILLRACE, BARE_RAY.name))
    added = [our.p50_ms - their.p50_ms for our, their in zip(alone, bare, strict=True)]
    others = [shares(ours, rates[peer.name][16]) for peer in SERVERS if peer.name in rates]
    return {
        "share_of_fastapi_c16": round(median(of_fastapi), 3),
        "share_of_bare_ray_c16": round(median(of_bare), 3),
        "added_p50_ms_c1": round(median(added), 3),
        # Of the fastest of the frameworks that could be measured; 1 is even.
        "share_of_fastest_server_c16": round(min(map(median, others)), 3) if others else None,
        "servers_compared": len(others),
        "peers": {
            name: {f"c{count}": _rate(found) for count, found in counts.items()} for name, counts in rates.items()
        },
        "throughput": {
            "shares_c16": {"of_fastapi": spread(of_fastapi), "of_bare_ray": spread(of_bare)},
            "added_p50_ms_c1": spread(added),
            **{
                name: {f"c{count}": _details(found) for count, found in counts.items()}
                for name, counts in measured.items()
            },
        },
    }


def _rates(found: Sequence[Closed]) -> list[float]:
    return [closed.requests_per_second for closed in found]


def _rate(rates: Sequence[float]) -> float:
    return round(median(rates), 1)


def _details(found: Sequence[Closed]) -> dict[str, Any]:
    return {
        "requests_per_second": spread(_rates(found), 1),
        "p50_ms": spread([closed.p50_ms for closed in found]),
        "p99_ms": spread([closed.p99_ms for closed in found]),
        "failed": sum(closed.failed for closed in found),
    }
