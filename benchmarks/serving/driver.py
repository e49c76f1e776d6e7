"""Child process: publishes and deploys versions of the fixture's model, a JSON line for each on its standard input.

    python -m benchmarks.serving.driver NAME FOLDER

A driver of a Ray cluster is a process of its own, as a flow's is.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millrace.errors import MillraceError
from millrace.settings import Settings, load_settings
from ray_jobs.serve.versions import Target


@dataclass
class Deployer:
    """The pipeline `name`, and the packages that were published of it."""

    settings: Settings
    name: str
    folder: Path
    targets: dict[int, Target] = field(default_factory=dict)

    def publish(self, version: int) -> dict[str, Any]:
        from benchmarks.serving.packages import publish
        from millrace.pipeline import load_pipeline
        from millrace.storage import ObjectStore

        pipeline = load_pipeline(self.name, self.settings.pipelines)
        self.targets[version] = publish(pipeline, ObjectStore.of(self.settings), self.folder, version)
        return {}

    def deploy(self, version: int, code: str | None) -> dict[str, Any]:
        from ray_jobs.serve import deploy

        if code is not None:
            # New code is new processes. Which code it is matters to nothing else, so a name does for a changed file.
            deploy.code_version = lambda pipeline, settings: code
        return {"seconds": deploy.deploy(self.settings, self.name, self.targets[version]).seconds}

    def replicas(self) -> dict[str, Any]:
        from ray_jobs.serve import deploy

        application = deploy._client().get_serve_details()["applications"][self.name]
        found = application["deployments"][deploy.DEPLOYMENT]["replicas"]
        return {"replicas": [{"id": r["replica_id"], "pid": r.get("pid"), "state": _name(r["state"])} for r in found]}


def _name(state: Any) -> str:
    """As Serve spells it; what it gives is a member of an enumeration of texts, whose own text is another."""
    return str(getattr(state, "value", state))


def main() -> None:
    from ray_jobs.cluster import connect

    # What Ray prints must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    settings = load_settings()
    connect(settings)
    deployer = Deployer(settings, sys.argv[1], Path(sys.argv[2]))
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(deployer, asked.pop("do"))(**asked)
        except MillraceError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
    answers.flush()
    # Leaving the cluster in order takes seconds in which nothing of use happens.
    os._exit(0)


if __name__ == "__main__":
    main()
