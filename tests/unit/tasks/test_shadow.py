"""The process that mirrors: from the ledger's rules to the log, until they are others."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from millrace.errors import DigestError
from millrace.inference_log import inference_folder, read_shadow
from millrace.ledger import Token
from millrace.settings import Settings
from millrace.traffic_rules import TrafficRules, VersionShare
from ray_jobs.serve.service import PredictionService
from tasks import shadow
from tasks.registry import Version
from tests.unit.ray_jobs.serve.asking import asking
from tests.unit.ray_jobs.serve.world import World

BODY = {"rows": [{"delay": 1.5, "carrier": "UA"}]}


def test_it_mirrors_until_the_ledger_says_otherwise(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state_dir=tmp_path / "state", pipelines_dir=tmp_path / "pipelines")
    world = World(tmp_path, {"kind": "binary"})
    folder = inference_folder(settings, "tiny")
    service = PredictionService(world.pipeline, world.store, folder)
    first, second = world.publish("1"), world.publish("2")
    asyncio.run(service.load(first))
    ask = asking(service)

    class Registry:
        def __init__(self, _: Settings) -> None: ...

        def version(self, pipeline: str, number: str) -> Version:
            return Version(pipeline, number, second.package_key, second.package_digest, (), 0.0, "", {})

    monkeypatch.setattr(shadow, "Registry", Registry)
    monkeypatch.setattr(shadow.ObjectStore, "of", lambda _: world.store)
    with shadow.closing(shadow.Ledger(settings.ledger)) as ledger:
        token = ledger.slots.take("tiny", "serving", "run")
        assert isinstance(token, Token)
        because = ledger.decide("tiny", "promoted", "1", {})
        ledger.serve("tiny", "1", first.package_digest, because=because, token=token)

        def say(share: float, digest: str = second.package_digest) -> None:
            rules = TrafficRules(TrafficRules.only("1").division, shadow=VersionShare("2", share) if share else None)
            ledger.divide("tiny", "1", rules, {"2": digest}, actor="me", token=token, once=f"{share}{digest}")

        shadow.run(settings, "tiny", os.getppid())  # nothing is mirrored: it ends at once
        say(1.0)
        naps: list[float] = []

        def nap(seconds: float) -> None:
            naps.append(seconds)
            ask("POST", "/predict", json=BODY)
            if len(naps) == 5:
                say(0.5)

        monkeypatch.setattr(shadow, "ASK_SECONDS", 0.0)
        monkeypatch.setattr(shadow.time, "sleep", nap)
        shadow.run(settings, "tiny", os.getppid())
        rows = read_shadow(folder, world.pipeline.spec.data)
        assert len(rows) == 5, "at its last look it had not seen what the rules changed by"
        assert set(rows["version"]) == {"2"}
        naps.clear()
        shadow.run(settings, "tiny", parent=-1)
        assert naps == [], "whose parent is gone ends"
        say(1.0, "another digest")
        with pytest.raises(DigestError, match="mirrored to"):
            shadow.run(settings, "tiny", os.getppid())
    service.close()
