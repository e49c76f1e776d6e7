"""Which version serves, as the ledger has it. MLflow's alias follows the ledger; nothing is decided by an alias."""

from __future__ import annotations

from millrace.errors import ConflictError, DigestError
from millrace.ledger import Entry
from tasks.registry import Registry, Version
from tasks.run import Run


def serving(run: Run) -> Version | None:
    """The version that the ledger says serves, or None before the first.

    Raises:
        DigestError: the registry names another package for it than was promoted.
    """
    entry = run.ledger.serving(run.pipeline.name)
    return None if entry is None else registered(run, entry)


def champion_of(run: Run) -> Version:
    """The version that serves.

    Raises:
        ConflictError: none does.
    """
    champion = serving(run)
    if champion is None:
        raise ConflictError(
            f"pipeline '{run.pipeline.name}' serves no version",
            next=f"train one with `millrace run {run.pipeline.name}`",
        )
    return champion


def registered(run: Run, entry: Entry) -> Version:
    """The registered version of a `serving` entry.

    Raises:
        DigestError: the registry names another package for it than the ledger.
    """
    version = Registry(run.settings).version(run.pipeline.name, entry.subject)
    promised = entry.detail["package"]
    if promised and version.package_digest != promised:
        raise DigestError(
            f"version {version.version} of '{version.pipeline}' is not the package that was promoted",
            got=version.package_digest,
            allowed=promised,
            next="somebody changed the registry's tags: put them right, or roll back to another version",
        )
    return version
