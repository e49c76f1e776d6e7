"""The Open Inference Protocol beside other servers of it: the same requests to each, and where their answers differ.

MLServer is asked in JSON, which is all it takes over HTTP; Triton, whose extension binary data is, in both. All have
the same signature and weights. What differs for a reason is listed with it (see `protocol_answers`); what
is left is `unexplained`, and should be none.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.parts import Tell
from benchmarks.serving.dialects import COLUMNS
from benchmarks.serving.fixture import PIPELINE, Fixture, make_fixture
from benchmarks.serving.in_process import VERSION, served
from benchmarks.serving.options import Options
from benchmarks.serving.peers import settings
from benchmarks.serving.peers.environment import PeerError
from benchmarks.serving.peers.process import serving
from benchmarks.serving.peers.registry import Peer, Place, debian_python
from benchmarks.serving.protocol_answers import Answer, differences
from benchmarks.serving.protocol_cases import Case, cases
from benchmarks.serving.target import Target
from infra.local.ports import free_ports

MODEL = PIPELINE.name
_SERVERS = "benchmarks.serving.peers.servers"
_SECONDS = 30.0


def measure(options: Options, tell: Tell) -> dict[str, Any]:
    """Each case to each server that takes it: how many were compared, and the differences.

    Raises:
        PeerError: MLServer cannot be asked: there is nothing to compare with.
    """
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        fixture = make_fixture(Path(folder))
        asked = cases(MODEL, VERSION, fixture.shape, fixture.rows)
        with served(fixture) as target:
            ours = answers(target.url.removesuffix("/predict"), asked)
        compared, found, missing = 0, [], {}
        for peer, takes_binary in ((_mlserver(fixture), False), (_TRITON, True)):
            tell(f"{MODEL} behind {peer.name}, asked the same")
            taken = [case for case in asked if takes_binary or not case.is_binary]
            try:
                with serving(peer, fixture) as target:
                    theirs = answers(_base(target), taken)
            except PeerError as error:
                if not takes_binary:
                    raise
                missing[peer.name] = str(error)
                continue
            compared += len(taken)
            for case in taken:
                found += differences(peer.name, case, ours[case.name], theirs[case.name])
    unexplained = [difference for difference in found if difference["why"] is None]
    for difference in unexplained:
        tell(f"{difference['peer']}, {difference['case']}: {difference['what']}")
    return {
        "protocols": {
            "cases": len(asked),
            "compared": compared,
            "differences": found,
            "unexplained": len(unexplained),
            "peers_missing": missing,
        }
    }


def _mlserver(fixture: Fixture) -> Peer:
    """MLServer is told the signature; what it does not check of it itself, its runtime does."""
    inputs = [
        {"name": found["name"], "datatype": found["datatype"], "shape": [-1, 1]}
        for found in COLUMNS.encode(fixture.shape, fixture.rows[:1])["inputs"]
    ]
    about = {
        "platform": "pytorch",
        "versions": [VERSION],
        "inputs": inputs,
        "outputs": [{"name": "probability", "datatype": "FP32", "shape": [-1]}],
        "parameters": {"version": VERSION},
    }

    def command(place: Place) -> list[str]:
        runtime = f"{_SERVERS}.mlserver_columns.ColumnsRuntime"
        settings.write_mlserver(place.scratch, place.port, runtime, MODEL, **about)
        return place.script("mlserver", "start", place.scratch)

    return Peer("mlserver", command, COLUMNS, f"/v2/models/{MODEL}/infer")


_TRITON = Peer(
    "triton",
    lambda place: place.module(f"{_SERVERS}.triton_columns", MODEL, place.port, *free_ports(2)),
    COLUMNS,
    f"/v2/models/{MODEL}/infer",
    python=debian_python,
)


def _base(target: Target) -> str:
    return f"http://{target.host}:{target.port}"


def answers(url: str, asked: Sequence[Case]) -> dict[str, Answer]:
    """What the server at `url` answers to each case, by its name."""
    with httpx.Client(trust_env=False, timeout=_SECONDS) as client:
        return {
            case.name: Answer.of(
                client.request(case.method, url + case.path, content=case.body, headers=dict(case.headers)),
                is_inference=case.method == "POST",
            )
            for case in asked
        }
