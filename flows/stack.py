"""The embedded stack as the command line shows it: started, its deployments registered, its champions serving."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from flows.progress import Progress
from infra.local import stack
from millrace.errors import ServiceError, SpecError
from millrace.faults import fault_point
from millrace.ledger import Ledger
from millrace.settings import Settings
from millrace.spec.load import load_spec, pipeline_names
from millrace.storage import digest_bytes, write_atomically
from tasks.endpoint import description
from tasks.run_kinds import PROMOTED

_ROOT = Path(__file__).resolve().parent.parent
_TIMEOUT_SECONDS = 5.0
_DEPLOYMENTS = 7


def bring_up(settings: Settings, progress: Progress | None = None) -> stack.StackStatus:
    """Start the stack, register the deployments of prefect.yaml, and let each champion serve again."""
    progress = progress or Progress()
    with progress.spinner("starting the stack"):
        status = stack.up(settings, progress.stack)
        register_deployments(settings, progress)
        restore_champions(settings, progress)
    return status


def take_down(settings: Settings) -> None:
    progress = Progress()
    with progress.spinner("stopping the stack"):
        stack.down(settings, progress.stack)


def register_deployments(settings: Settings, progress: Progress) -> None:
    """Give prefect.yaml to the server, unless it has this very file already.

    Raises:
        ServiceError: `prefect deploy` fails; the message has the end of what it said.
    """
    digest = digest_bytes((_ROOT / "prefect.yaml").read_bytes() + settings.work_pool.encode() + str(_ROOT).encode())
    mark = settings.state / "run" / "deployments"
    if mark.is_file() and mark.read_text() == digest and _count_deployments(settings) >= _DEPLOYMENTS:
        return
    started = progress.seconds
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    with fault_point("prefect.deploy"):
        done = subprocess.run(  # noqa: S603 - our own command
            command, cwd=_ROOT, env=os.environ | {"COLUMNS": "160"}, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        raise ServiceError(
            "prefect deploy --all failed",
            got="\n".join((done.stdout + done.stderr).strip().splitlines()[-5:]),
            next="correct prefect.yaml, or look at `millrace status`",
        )
    write_atomically(mark, digest.encode())
    progress.line(
        "prefect",
        "deployments registered: training, respond, monitoring, replay, rollout, rollback, restore",
        progress.seconds - started,
    )


def _count_deployments(settings: Settings) -> int:
    try:
        with fault_point("prefect.count_deployments"):
            answer = httpx.post(
                f"{settings.prefect_api_url}/deployments/count",
                json={},
                headers=settings.prefect_headers,
                timeout=_TIMEOUT_SECONDS,
            )
            return int(answer.raise_for_status().json())
    except (httpx.HTTPError, ValueError) as error:
        raise ServiceError(
            f"Prefect at {settings.prefect_url} does not answer", got=str(error), next="start it with `millrace up`"
        ) from error


def restore_champions(settings: Settings, progress: Progress) -> None:
    """Let each pipeline's champion serve again: Ray forgets its applications when it is killed."""
    ledger = Ledger(settings.ledger)
    for name in pipeline_names(settings.pipelines):
        if is_answering(settings, name) or ledger.serving(name) is None:
            continue
        from flows.restore import bring_back

        deployed = bring_back(name)
        if deployed is not None:
            progress.line(name, f"version {deployed.version} serves again", deployed.seconds)


def is_answering(settings: Settings, name: str) -> bool:
    """Whether the pipeline's endpoint is ready."""
    try:
        with fault_point("endpoint.ready"):
            return httpx.get(f"{settings.serve_url}/v1/{name}/ready", timeout=_TIMEOUT_SECONDS).is_success
    except httpx.HTTPError:
        return False


def stack_and_pipelines(settings: Settings) -> dict[str, Any]:
    """The stack's status, and what each pipeline serves; of those whose models are not served, their champions."""
    found = stack.status(settings).as_dict()
    names = pipeline_names(settings.pipelines)
    found["pipelines"] = {name: description(settings, name) for name in names}
    ledger = Ledger(settings.ledger)
    champions = {name: ledger.newest(name, PROMOTED) for name in names if not _is_served(settings, name)}
    found["unserved"] = {name: None if entry is None else entry.subject for name, entry in champions.items()}
    return found


def _is_served(settings: Settings, name: str) -> bool:
    try:
        return load_spec(settings.pipelines / name).is_served
    except SpecError:
        # What is wrong with it is no matter of the stack's: `millrace validate` tells.
        return True
