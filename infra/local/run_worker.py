"""Child process: Prefect's process worker, whose flow runs start warm. Imports while the server still starts."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import subprocess
import sys
import time
from contextlib import suppress

from infra.local.health import answers
from infra.local.warm import SOCKET


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pool", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--patience-s", type=float, required=True)
    parser.add_argument("--socket", required=True)
    options = parser.parse_args()
    os.environ[SOCKET] = options.socket
    subprocess.Popen([sys.executable, "-m", "infra.local.warm", options.socket])  # noqa: S603 - ends when this process does

    from prefect.settings import get_current_settings
    from prefect.utilities.processutils import setup_signal_handlers_worker
    from prefect.workers.process import ProcessWorker

    from infra.local.direct_runs import DirectRun

    deadline = time.monotonic() + options.patience_s
    health = f"{get_current_settings().api.url}/health"
    while not answers(health):
        if time.monotonic() > deadline:
            sys.stderr.write(f"{health} did not answer within {options.patience_s:.0f} s\n")
            return 1
        time.sleep(0.1)

    async def work() -> None:
        template = ProcessWorker.get_default_base_job_template()
        template["variables"]["properties"]["command"]["default"] = shlex.join(
            [sys.executable, "-m", "infra.local.warm"]
        )
        worker = ProcessWorker(
            work_pool_name=options.pool,
            name=options.name,
            create_pool_if_not_found=True,
            base_job_template=template,
        )
        worker.job_configuration = DirectRun
        await worker.start(printer=_say)

    setup_signal_handlers_worker(os.getpid(), "the process worker", _say)
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(work())
    return 0


def _say(*values: object, **_style: object) -> None:
    sys.stdout.write(" ".join(map(str, values)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
