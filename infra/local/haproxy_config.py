"""Corrects the configuration that Ray Serve writes for HAProxy; run as a script in front of it.

Ray's template binds statistics and metrics to all interfaces, has no bound on what it sends a replica, and answers its
own failures with a bare 500. None of that is a setting of Ray's. This needs nothing but Python's own library, as it
runs at each reload.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

#: Requests of one customer that may wait and be answered at once; HAProxy has 4,096 connections for all.
_MOST_OF_ONE = 2048
#: Seconds in which a caller has to send a request's headers, and as much of its body as fits into a buffer.
_SEND_SECONDS = 30
#: Milliseconds in which whom a replica has refused is refused here; `millrace.limits.HOLD_SECONDS` is as long.
HOLD_MS = 25

_FRONTEND = "frontend http_frontend"
_BIND_ALL = re.compile(r"^(\s*bind )\*?:")
_ERROR_FILE = re.compile(r"^(\s*)errorfile (50[234]) ")
_SECTION = re.compile(r"^(\w+) ?(\S*)")
_ACL = re.compile(r"^\s*acl is_http-(\S+) ")
_SERVER = re.compile(r"^\s*server \S+ \S+ check\b(?!.* backup)")

_CUSTOMERS = """\
backend customers
    # Which customer has how many requests here, by a digest of its key.
    stick-table type integer size 100k expire 60s store conn_cur
"""
_TURNS = f"""\
    # A body is waited for here, not at a replica's place.
    option http-buffer-request
    timeout http-request {_SEND_SECONDS}s
    # Customers take turns: who has fewer requests here comes first.
    http-request track-sc0 req.hdr(authorization),xxh32 table customers
    http-request set-priority-class sc0_conn_cur
    http-request deny deny_status 503 if {{ sc0_conn_cur gt {_MOST_OF_ONE} }}
"""
#: Milliseconds, as a number that an entry can hold: it begins anew every 11 days, and holds nobody then.
_NOW = "date(0,ms),mod(1000000000)"
_PROBLEMS = {
    "408": f"the request did not come within {_SEND_SECONDS} s",
    "502": "the replica that had this request failed, and so did the others that it was given to",
    "503": "the service is overloaded or has no replica: this request did not get its turn in time",
    "504": "no replica has answered in time",
}


@dataclass(frozen=True)
class Queue:
    """What an application's replicas get: so many requests at once each; the others wait so long for their turn."""

    concurrent: int
    seconds: float


@dataclass(frozen=True)
class Ingress:
    """The ingress as Ray binds it, HOST:PORT, and where it listens instead, separated by commas."""

    bound: str
    wanted: str


def corrected(config: str, ingress: Ingress | None, queues: Mapping[str, Queue]) -> str:
    """The configuration with its listeners on loopback or where `ingress` says, and a queue before each application.

    `queues` are by the name of the application; one that has none is left as it is.
    """
    return "\n".join(_corrected(config.splitlines(), ingress, queues)) + "\n"


def _corrected(lines: Iterable[str], ingress: Ingress | None, queues: Mapping[str, Queue]) -> Iterator[str]:
    section, has_turns, applications = "", False, set[str]()
    queue: Queue | None = None
    for line in lines:
        if line[:1].strip() and (found := _SECTION.match(line)):
            if section == "defaults":
                yield f"    {_problem('408')}"
                yield from _CUSTOMERS.splitlines()
                for name in queues:
                    yield from _refused_table(name)
            section = " ".join(found.groups()).strip()
            queue = queues.get(section.removeprefix("backend http-")) if section.startswith("backend http-") else None
            yield line
            if queue is not None:
                yield from _queue_lines(queue)
            continue
        if found := _ACL.match(line):
            applications.add(found[1])
        if section == _FRONTEND and not has_turns and line.lstrip().startswith("use_backend "):
            yield from _TURNS.splitlines()
            for name in sorted(applications & set(queues)):
                yield from _hold_lines(name)
            has_turns = True
        if error := _ERROR_FILE.match(line):
            yield f"{error[1]}{_problem(error[2])}"
        elif ingress is not None and line.strip() == f"bind {ingress.bound}":
            yield line.replace(ingress.bound, ingress.wanted)
        elif queue is not None and _SERVER.match(line):
            yield f"{line} maxconn {queue.concurrent}"
        else:
            yield _BIND_ALL.sub(r"\g<1>127.0.0.1:", line)


def _refused_table(name: str) -> Iterator[str]:
    yield f"backend refused-{name}"
    yield "    # Of each customer: when a replica refused it, and how often it was refused here since one heard of it."
    yield "    stick-table type integer size 100k expire 1h store gpt0,gpc0"


def _hold_lines(name: str) -> Iterator[str]:
    """Refuse here, for a moment, whom a replica has refused: that costs a replica as much as a small answer does.

    By the time in the entry, not by the entry's own end: under load one that was to end after 25 ms stayed for minutes.
    """
    held = f"if is_http-{name} {{ {_NOW},sub(txn.refused) 0:{HOLD_MS - 1} }}"
    document = {
        "type": "urn:millrace:error:too-many-requests",
        "title": HTTPStatus.TOO_MANY_REQUESTS.phrase,
        "status": 429,
        "detail": "this customer asks too often",
        "error": "this customer asks too often",
        "next": f"ask again in {HOLD_MS / 1000:g} s or later",
    }
    yield f"    http-request track-sc1 req.hdr(authorization),xxh32 table refused-{name} if is_http-{name}"
    yield f"    http-request set-var(txn.refused) sc1_get_gpt0 if is_http-{name}"
    yield f"    http-request sc-inc-gpc0(1) {held}"
    yield (
        "    http-request return status 429 content-type application/problem+json hdr retry-after 1 "
        f"string '{json.dumps(document)}' {held}"
    )


def _queue_lines(queue: Queue) -> Iterator[str]:
    yield f"    timeout queue {max(1, round(queue.seconds * 1000))}ms"
    # While some wait, replicas are told how many come: autoscaling counts those that never reach one.
    yield "    http-request del-header x-ingress-rate"
    yield "    http-request set-header x-ingress-rate %[be_sess_rate] if { queue gt 0 }"
    # A replica says whom to hold, and counts whom it was spared.
    yield "    http-request del-header x-ingress-refused"
    yield "    http-request set-header x-ingress-refused %[sc1_clr_gpc0] if { sc1_get_gpc0 gt 0 }"
    yield f"    http-response sc-set-gpt0(1) {_NOW} if {{ res.hdr(x-ingress-hold) -m found }}"
    yield "    http-response del-header x-ingress-hold"


def _problem(status: str) -> str:
    """An `http-error` with the problem document that says so."""
    is_ours = status != "408"
    document = {
        "type": f"urn:millrace:error:{'unavailable' if is_ours else 'request'}",
        "title": HTTPStatus(int(status)).phrase,
        "status": int(status),
        "detail": _PROBLEMS[status],
        # Where the Open Inference Protocol has it.
        "error": _PROBLEMS[status],
        "next": "ask again later; a queue that stays calls for more replicas (serving.replicas)"
        if is_ours
        else "send the whole request at once",
    }
    later = "hdr retry-after 1 " if is_ours else ""
    return f"http-error status {status} content-type application/problem+json {later}string '{json.dumps(document)}'"


def read_queues(folder: Path) -> dict[str, Queue]:
    """Of each application, what its last deploy wrote there.

    One that cannot be read has none, and stderr says so: the ingress is there for the others too.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
            found[path.stem] = Queue(int(content["concurrent"]), float(content["seconds"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            sys.stderr.write(f"{path.stem} has no queue: {path}: {error!r}\n")
    return found


def main(settings: str, path: str) -> None:
    """Correct the file at `path` in place."""
    found = json.loads(settings)
    ingress = Ingress(**found["ingress"]) if found["ingress"] else None
    config = Path(path)
    config.write_text(corrected(config.read_text(), ingress, read_queues(Path(found["queues"]))))


if __name__ == "__main__":
    main(*sys.argv[1:])
