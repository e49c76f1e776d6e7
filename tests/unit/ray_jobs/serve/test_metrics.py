"""What replicas count: all of it, over all processes, living and ended, and not one series too many."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from millrace.errors import OverloadedError
from ray_jobs.serve.metrics import BUCKETS, MAX_CUSTOMERS, OTHER, OVERLOADED, outcome_of

# A process decides once where its series lie, so each of these is one.
_COUNTS = """
import sys
from pathlib import Path
from ray_jobs.serve.metrics import Metrics, outcome_of
metrics = Metrics("tiny", Path(sys.argv[1]))
for line in sys.argv[2:]:
    version, customer, status, rows, seconds = line.split()
    metrics.count(version, customer, outcome_of(int(status), None), int(rows), float(seconds))
    metrics.count_batch(version, waited=0.003, batch_rows=6, cached_rows=max(0, int(rows) - 1))
print(metrics.text(shares={"1": 0.95, "2": 0.05}).decode())
"""
_SHADOW = """
import sys
from pathlib import Path
from ray_jobs.serve.metrics import ShadowMetrics
metrics = ShadowMetrics("tiny", Path(sys.argv[1]))
for outcome in ("answered", "answered", "failed", "dropped"):
    metrics.count("2", outcome)
"""
_GAUGES = """
import sys
from pathlib import Path
from ray_jobs.serve.metrics import Metrics
from ray_jobs.serve.replicas import ReplicaCounts
print(Metrics("tiny", Path(sys.argv[1])).text(ReplicaCounts(wanted=4, running=3)).decode())
"""


def replica(folder: Path, *requests: str) -> str:
    """A process that counts these (version, customer, status, rows, seconds), says what all have counted, and ends."""
    done = subprocess.run(
        [sys.executable, "-c", _COUNTS, str(folder), *requests], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def value(text: str, name: str, **labels: str) -> float | None:
    """The value of the only series with this name and these labels."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line)
        if match and labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', match[1])).items():
            found.append(float(match[2]))
    assert len(found) <= 1, found
    return found[0] if found else None


def test_requests_are_counted_by_version_customer_and_outcome(tmp_path: Path) -> None:
    asked = ["1 acme 200 3 0.004", "1 acme 200 1 0.3", "2 acme 200 1 0.004", "1 umbrella 422 0 0.001"]
    text = replica(tmp_path, *asked, "1 acme 429 0 0.0001", "1 acme 500 0 0.004", "- acme 503 0 0.004")
    who = {"pipeline": "tiny", "version": "1", "customer": "acme"}
    assert value(text, "millrace_requests_total", **who, outcome="answered") == 2
    assert value(text, "millrace_rows_total", **who, outcome="answered") == 4
    assert value(text, "millrace_requests_total", **who, outcome="limited") == 1
    assert value(text, "millrace_requests_total", **who, outcome="failed") == 1
    assert value(text, "millrace_requests_total", **who | {"version": "2"}, outcome="answered") == 1
    assert value(text, "millrace_requests_total", **who | {"customer": "umbrella"}, outcome="refused") == 1
    assert value(text, "millrace_requests_total", version="-", outcome="failed") == 1
    bucket = {"version": "1", "outcome": "answered"}
    assert value(text, "millrace_request_seconds_bucket", **bucket, le="0.005") == 1
    assert value(text, "millrace_request_seconds_bucket", **bucket, le="0.5") == 2
    assert value(text, "millrace_request_seconds_sum", **bucket) == pytest.approx(0.304)
    assert f'le="{BUCKETS[0]}"' in text


def test_what_ended_processes_counted_stays_and_their_files_go(tmp_path: Path) -> None:
    for turn in range(1, 5):
        text = replica(tmp_path, "1 acme 200 1 0.004", "1 acme 200 2 0.004")
        assert value(text, "millrace_requests_total", customer="acme") == 2 * turn
        assert value(text, "millrace_rows_total", customer="acme") == 3 * turn
        assert value(text, "millrace_request_seconds_count", version="1") == 2 * turn
    # Those of all that ended, and of the last, which nobody has folded yet.
    assert len(list(tmp_path.glob("*.db"))) == 4


def test_customers_beyond_a_bound_are_counted_together(tmp_path: Path) -> None:
    asked = [f"1 customer-{number} 200 1 0.004" for number in range(MAX_CUSTOMERS + 7)]
    text = replica(tmp_path, *asked, "1 customer-3 200 1 0.004")
    assert len(set(re.findall(r'customer="([^"]*)"', text))) == MAX_CUSTOMERS + 1
    assert value(text, "millrace_requests_total", customer=OTHER) == 7
    assert value(text, "millrace_requests_total", customer="customer-3") == 2


def test_the_files_of_a_living_process_are_left_alone(tmp_path: Path) -> None:
    living = tmp_path / f"counter_{os.getpid()}.db"
    living.write_bytes(b"")
    text = replica(tmp_path, "1 acme 200 1 0.004")
    assert living.exists()
    assert value(text, "millrace_requests_total", customer="acme") == 1


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 64, b"\x40\x00\x00\x00" + b"\xff" * 60])
def test_a_file_that_a_killed_process_left_half_written_stops_nobody(content: bytes, tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = tmp_path / f"counter_{int(ended.stdout)}.db"
    left.write_bytes(content)
    text = replica(tmp_path, "1 acme 200 1 0.004")
    assert value(text, "millrace_requests_total", customer="acme") == 1
    assert not left.exists()


def test_what_would_have_been_late_is_no_failure() -> None:
    assert outcome_of(503, OverloadedError("busy")) == OVERLOADED
    assert outcome_of(503, None) == "failed"


def test_batches_are_counted_by_version(tmp_path: Path) -> None:
    text = replica(tmp_path, "1 acme 200 3 0.004", "1 umbrella 200 1 0.004", "2 acme 200 1 0.004")
    which = {"pipeline": "tiny", "version": "1"}
    assert value(text, "millrace_batch_rows_bucket", **which, le="4.0") == 0
    assert value(text, "millrace_batch_rows_bucket", **which, le="8.0") == 2
    assert value(text, "millrace_wait_seconds_bucket", **which, le="0.005") == 2
    assert value(text, "millrace_cached_rows_total", **which) == 2


def test_how_many_replicas_there_are_is_told_beside_what_they_counted(tmp_path: Path) -> None:
    assert value(replica(tmp_path, "1 acme 200 1 0.004"), "millrace_replicas_wanted") is None
    done = subprocess.run([sys.executable, "-c", _GAUGES, str(tmp_path)], capture_output=True, text=True, check=True)
    assert value(done.stdout, "millrace_replicas_wanted", pipeline="tiny") == 4
    assert value(done.stdout, "millrace_replicas_running", pipeline="tiny") == 3
    assert value(done.stdout, "millrace_requests_total", customer="acme") == 1


def test_what_a_shadow_does_is_told_by_the_replicas(tmp_path: Path) -> None:
    for turn in (1, 2):
        subprocess.run([sys.executable, "-c", _SHADOW, str(tmp_path)], check=True)
        text = replica(tmp_path, "1 acme 200 1 0.004")
        which = {"pipeline": "tiny", "version": "2"}
        found = [
            value(text, "millrace_shadow_requests_total", **which, outcome=outcome)
            for outcome in ("answered", "failed", "dropped")
        ]
        assert found == [2 * turn, turn, turn]


def test_the_share_of_each_version_is_told_and_kept_in_no_file(tmp_path: Path) -> None:
    for text in (replica(tmp_path, "1 acme 200 1 0.004"), replica(tmp_path)):
        assert value(text, "millrace_traffic_share", pipeline="tiny", version="1") == 0.95
        assert value(text, "millrace_traffic_share", pipeline="tiny", version="2") == 0.05
    assert not [path for path in tmp_path.iterdir() if "gauge" in path.name]


def test_whom_the_ingress_refused_is_counted_and_has_taken_no_time(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from ray_jobs.serve.metrics import Metrics; "
        "metrics = Metrics('tiny', Path(sys.argv[1])); "
        "metrics.count_limited('acme', 3); metrics.count_limited('acme', 4); "
        "print(metrics.text().decode())"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert value(done.stdout, "millrace_requests_total", customer="acme", outcome="limited") == 7
    assert value(done.stdout, "millrace_request_seconds_count", outcome="limited") in (None, 0)
