"""A real cluster without room: who trains is told what it waits for, and what can never start is refused."""

from __future__ import annotations

import json
import subprocess
import sys

from millrace.settings import Settings

_SCRIPT = """
import json, sys, threading
import ray
from ray.util import placement_group, remove_placement_group
from millrace import logs
from millrace.errors import ConfigError
from millrace.settings import load_settings
from ray_jobs.cluster import connect
from ray_jobs.train.room import require_room, telling_of_waits

logs.configure("WARNING", json_lines=True)
settings = load_settings()
connect(settings)
each = {"CPU": ray.cluster_resources()["CPU"]}
require_room(settings, "churn", 1, each)
held = placement_group([{"CPU": 0.01}])
ray.get(held.ready())
waiting = placement_group([each])
with telling_of_waits("churn", 1, 1, each):
    threading.Event().wait(7)
remove_placement_group(waiting)
remove_placement_group(held)
try:
    require_room(settings, "churn", 2, each)
except ConfigError as error:
    print(json.dumps({"refused": str(error), "cpus": each["CPU"]}))
"""


def test_a_training_says_what_it_waits_for(live_settings: Settings) -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    said = [json.loads(line) for line in done.stderr.splitlines() if "waits for room" in line]
    assert len(said) == 1, done.stderr
    assert said[0]["pipeline"] == "churn"
    assert said[0]["wants"] == f"1 worker with {answer['cpus']:g} CPU"
    assert f"of {answer['cpus']:g} CPU" in said[0]["free"]
    assert "can never start" in answer["refused"]
    assert f"2 workers with {answer['cpus']:g} CPU each" in answer["refused"]
