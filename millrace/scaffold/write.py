"""A pipeline folder from a table, whole or absent."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from millrace.contract import check
from millrace.errors import ConfigError
from millrace.faults import fault_point
from millrace.scaffold.infer import Inferred, infer
from millrace.scaffold.render import TEMPLATES, render
from millrace.scaffold.table_file import shown
from millrace.spec import PipelineSpec
from millrace.spec.load import FILE_NAME, load_spec
from millrace.table_source import TableSource
from millrace.window import Window

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_CODE = ("model.py", "source.py")


@dataclass(frozen=True)
class Created:
    """A new pipeline: where it is, its spec, what was found in the table, and what a person should look at."""

    name: str
    folder: Path
    spec: PipelineSpec
    inferred: Inferred
    num_quarantined: int
    notes: tuple[str, ...]


def create_pipeline(
    name: str,
    table: str,
    time: str,
    label: str,
    *,
    id: str | None = None,
    pipelines_dir: Path,
    known_after_days: float = 0.0,
    time_format: str | None = None,
    force: bool = False,
) -> Created:
    """Write `pipelines_dir`/`name` for the table at the path or URL `table`.

    `force` replaces a pipeline that is there already.

    Raises:
        ConfigError: the name is invalid or taken, or one column is given two parts.
        SourceError: the table cannot be read, lacks a column, or nothing can be learnt from it.
    """
    _check_name(name)
    folder = pipelines_dir.expanduser().resolve() / name
    _check_free(folder, force)
    _check_roles(time, label, id)
    options: dict[str, Any] = {
        "table": _portable(table, folder),
        "time": time,
        "label": label,
        "id": id,
        "known_after_days": known_after_days,
        "time_format": time_format,
    }
    source = TableSource(folder=folder, **options)
    found = infer(source)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A folder beside the final one, so that the rename is one step; its dot hides it from the list of pipelines.
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as scratch:
        draft = Path(scratch) / name
        spec, num_quarantined = _write(draft, source, options, found)
        with fault_point("scaffold.put"):
            _put(draft, folder, Path(scratch) / "replaced")
    notes = (*found.notes, *_table_notes(table))
    return Created(name, folder, spec, found, num_quarantined, notes)


def _write(draft: Path, source: TableSource, options: dict[str, Any], found: Inferred) -> tuple[PipelineSpec, int]:
    """Write the folder and try its contract on the whole table; the share that fails it goes into the spec."""
    draft.mkdir()
    for file in _CODE:
        (draft / file).write_bytes((TEMPLATES / file).read_bytes())
    yaml_file = draft / FILE_NAME
    yaml_file.write_text(render(draft.name, source, options, found, 0.0), encoding="utf-8")
    num_quarantined = _quarantined(source, load_spec(draft))
    share = num_quarantined / found.num_rows
    yaml_file.write_text(render(draft.name, source, options, found, share), encoding="utf-8")
    return load_spec(draft), num_quarantined


def _quarantined(source: TableSource, spec: PipelineSpec) -> int:
    start, end = source.extent()
    rows = source.rows(start, end, end + source.known_after + timedelta(days=1))
    return len(check(rows, spec.data, Window(start, end)).quarantined)


def _put(draft: Path, folder: Path, replaced: Path) -> None:
    if folder.exists():
        folder.rename(replaced)
    try:
        draft.rename(folder)
    except OSError as error:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise ConfigError(f"{folder} was made by somebody else meanwhile", next="choose another name") from error


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name):
        return
    near = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_").lstrip("0123456789_")[:63]
    raise ConfigError(
        "a pipeline's name must be usable in a URL and a folder",
        got=name,
        allowed="a lower-case letter, then up to 62 of a-z, 0-9 and _",
        next=f"try '{near or 'my_pipeline'}'",
    )


def _check_free(folder: Path, force: bool) -> None:
    if not folder.exists():
        return
    if not force:
        raise ConfigError(f"{folder} exists already", next="choose another name, or pass --force to replace it")
    if not (folder / FILE_NAME).is_file():
        raise ConfigError(f"{folder} is no pipeline, so --force does not replace it", next="choose another name")


def _check_roles(time: str, label: str, id: str | None) -> None:
    roles = [role for role in (time, label, id) if role is not None]
    if len(set(roles)) < len(roles):
        raise ConfigError("time, label and id must be different columns", got=roles, next="name one column for each")


def _portable(table: str, folder: Path) -> str:
    """`table` as pipeline.yaml names it: relative where table and pipelines move together, in one project folder."""
    if "://" in table:
        return table
    path, project = Path(table).expanduser().absolute(), folder.parent.parent
    if not path.is_relative_to(project):
        return str(path)
    return str(Path("../..") / path.relative_to(project))


def _table_notes(table: str) -> tuple[str, ...]:
    if "://" not in table or shown(table) == table:
        return ()
    return ("the table's URL carries a user, password or query: pipeline.yaml keeps it, so put no secret there",)
