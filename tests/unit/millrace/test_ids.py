"""Ids are random, new each time, and not the parent's in a forked process."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from millrace.ids import new_request_id


def test_no_id_comes_twice_whoever_asks() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = [
            each for part in pool.map(lambda _: [new_request_id() for _ in range(3000)], range(8)) for each in part
        ]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in found)


FORKED = """
import os
from millrace.ids import Ids
ids = Ids(16, str)
ids.new()  # there are some ready to be inherited
child = os.fork()
for _ in range(200):
    os.write(1, ids.new().encode() + b"\\n")
if child:
    os.waitpid(child, 0)
"""


def test_a_forked_process_makes_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    assert len(set(done.stdout.split())) == 400
