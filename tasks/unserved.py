"""Models that answer no requests: their champion is the version that was promoted last, and bears the alias for it.

The ledger has no entry that it serves: what watches, restores and rolls back what serves has nothing to do with it.
"""

from __future__ import annotations

from millrace.gate import Evaluation
from tasks import artifacts
from tasks.approval import use_approval
from tasks.champion import version_to_beat
from tasks.registry import CHAMPION, Registry, Version
from tasks.rollout import REFUSED, refuse_version, why_promoted
from tasks.run import Run, step
from tasks.run_kinds import PROMOTED
from tasks.slots import holding

#: A training's outcome: the version is the champion, and no request is answered by it.
PROMOTED_UNSERVED = "promoted, not served"


def settle(run: Run, version: Version, evaluation: Evaluation) -> str | None:
    """Name `version` the champion if its verdict says so. None when another is by now than it was judged against: then
    it must be judged again. What an earlier life of the run promoted, and was replaced since, stays replaced."""
    with holding(run, "serving") as held:
        now = version_to_beat(held)
        number = now and now.version
        promoted = held.ledger.entries(held.pipeline.name, PROMOTED, subject=version.version)
        if number != version.version and any(entry.actor == held.id for entry in promoted):
            return PROMOTED_UNSERVED
        if number not in (evaluation.champion_version, version.version):
            return None
        if not evaluation.verdict.passed:
            refuse_version(held, version, evaluation)
            return REFUSED
        promote_unserved(held, version, evaluation)
        return PROMOTED_UNSERVED


@step
def promote_unserved(run: Run, version: Version, evaluation: Evaluation) -> None:
    """Record that `version` is the champion, then name it so. Repeated after a kill, it comes to the same end.

    Raises:
        ApprovalError: the spec asks for an approval, and this package has none that counts now.
    """
    why = why_promoted(run, version, evaluation, use_approval(run, version, evaluation))
    once = f"{run.id}:{version.version}"
    run.ledger.decide(run.pipeline.name, PROMOTED, version.version, why, actor=run.id, token=run.proof, once=once)
    name_champion(run, version)
    told = {
        "replaces": why["champion_before"] or "nothing",
        "answers at": "nowhere: models of texts are not served",
        "in the registry": Registry(run.settings).url(version),
        "for other programs": f"millrace export {run.pipeline.name} --to FOLDER",
        "because": "; ".join(why["reasons"]),
    }
    text = artifacts.table(["", ""], [[name, line] for name, line in told.items()])
    title = f"Version {version.version} is the champion"
    artifacts.note(run.pipeline.name, "rollout", title, f"# {title}\n\n{text}\n")


def name_champion(run: Run, version: Version) -> None:
    """Give `version` the champion's alias, unless it has it."""
    if CHAMPION not in version.aliases:
        run.prove()
        Registry(run.settings).set_alias(version, CHAMPION)
