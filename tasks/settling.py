"""What becomes of a challenger, by what its pipeline's models are for: to answer requests, or to be taken elsewhere."""

from __future__ import annotations

from millrace.gate import Evaluation
from tasks import rollout, unserved
from tasks.registry import Version
from tasks.run import Run


def settle(run: Run, version: Version, evaluation: Evaluation) -> str | None:
    """Promote `version` if its verdict says so; the training's outcome. None when there is another champion by now than
    it was judged against: then it must be judged again."""
    if run.pipeline.spec.is_served:
        return rollout.settle(run, version, evaluation)
    return unserved.settle(run, version, evaluation)


def keep(run: Run, champion: Version) -> None:
    """See to it that the champion is what it is by the ledger, as nothing better was trained."""
    if not run.pipeline.spec.is_served:
        unserved.name_champion(run, champion)
    elif not rollout.is_as_recorded(run):
        rollout.serve_again(run)
