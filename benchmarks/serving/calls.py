"""Our own client as a process of its own, told by this one when to stop."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serving.peers.environment import ROOT
from benchmarks.serving.target import Target

_STOP_SECONDS = 90.0


@dataclass
class Client:
    """The process, and how far it is: it says so several times a second."""

    process: subprocess.Popen[str]
    answered: int = 0
    failed: int = 0
    _result: dict[str, Any] | None = None
    _told: threading.Condition = field(default_factory=threading.Condition)

    def listen(self) -> None:
        """Read what the process prints, until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = json.loads(line)
            with self._told:
                if "done" in found:
                    self._result = found["done"]
                else:
                    self.answered, self.failed = found["answered"], found["failed"]
                self._told.notify_all()
        # It has closed its output, so it ends; whoever waits for that must not find it ending.
        self.process.wait()
        with self._told:
            self._told.notify_all()

    def wait_for_answers(self, count: int, seconds: float = 60.0) -> None:
        """Until so many answers more are there.

        Raises:
            TimeoutError: they are not, after so long.
        """
        with self._told:
            wanted = self.answered + count
            if not self._told.wait_for(lambda: self.answered >= wanted or self._has_ended(), seconds):
                raise TimeoutError(f"the load had no {count} answers more within {seconds:g} s")

    def stop(self) -> None:
        """Send no more requests; those on their way are still waited for."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()

    def result(self) -> dict[str, Any]:
        """The figures, once the load is over.

        Raises:
            RuntimeError: the process failed.
        """
        with self._told:
            self._told.wait_for(self._has_ended)
        if self._result is None:
            raise RuntimeError(f"the load's process ended with status {self.process.wait()} and without figures")
        return self._result

    def _has_ended(self) -> bool:
        return self._result is not None or self.process.poll() is not None


@contextmanager
def start_client(target: Target, plan: Mapping[str, Any], others: Sequence[Target] = ()) -> Iterator[Client]:
    """`benchmarks.serving.client` at work on `target`; what `plan` holds, that module says.

    `others` are the same endpoint under other headers: requests carry those of each of them in turn.
    """
    from benchmarks.serving.load import first_number

    template = target.template
    whom = {
        "host": target.host,
        "port": target.port,
        "heads": [(each.head + template.head).decode() for each in (target, *others)],
        "tail": template.tail.decode(),
        "first": first_number(),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving.client"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    client = Client(process)
    listener = threading.Thread(target=client.listen, daemon=True)
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps({**whom, **plan}) + "\n")
        process.stdin.flush()
        listener.start()
        yield client
    finally:
        client.stop()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        listener.join()
        if process.stdout is not None:
            process.stdout.close()


def open_loop_plan(rate: float, seconds: float, *, seed: int, arrivals: str = "poisson") -> dict[str, Any]:
    """`rate` requests a second on average, for so long or until stopped."""
    return {"kind": "open", "rate": rate, "seconds": seconds, "seed": seed, "arrivals": arrivals}
