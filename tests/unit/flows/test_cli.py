"""The command: help that teaches at once, messages and exit codes instead of tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from millrace.redaction import redact

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = (
    "up", "down", "status", "validate", "schema", "run", "check", "replay", "rollback", "traffic", "rollout",
    "shadow",
    "versions", "export", "history", "demo", "new", "keys", "approvals", "approve", "reject", "approvers",
)  # fmt: skip
SPEC = {
    "name": "tiny",
    "data": {
        "source": "source:Source",
        "event_time": "at",
        "row_id": "id",
        "features": {"x": {"kind": "numeric"}},
        "label": {"column": "y", "kind": "binary"},
    },
    "evaluation": {"metric": "roc_auc"},
}


def millrace(
    *arguments: str, pipelines: Path | None = None, state: Path | None = None
) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    if pipelines is not None:
        env["MILLRACE_PIPELINES_DIR"] = str(pipelines)
    if state is not None:
        env["MILLRACE_STATE_DIR"] = str(state)
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def write(folder: Path, document: object) -> Path:
    target = folder / "tiny"
    target.mkdir(parents=True)
    (target / "pipeline.yaml").write_text(yaml.safe_dump(document))
    return folder


def test_help_names_every_command() -> None:
    done = millrace("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['millrace', '--help']\n"
        "from flows.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'prefect', 'ray', 'torch', 'mlflow', 'evidently', 'pandas', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str) -> None:
    from typer.main import get_command

    from flows.cli import app

    found = get_command(app).commands[command]  # type: ignore[attr-defined]
    assert len(found.help or "") > 40
    assert all(getattr(option, "help", None) for option in found.params if option.name != "help")
    # Redaction stands before stdout, and takes some words for a secret.
    assert redact(told := found.get_help(found.context_class(found))) == told


def test_schema_fits_the_pipelines_here() -> None:
    done = millrace("schema")
    schema = json.loads(done.stdout)
    for path in (ROOT / "pipelines").glob("*/pipeline.yaml"):
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_a_broken_spec_names_the_field_and_the_fix(tmp_path: Path) -> None:
    broken = {**SPEC, "data": {**SPEC["data"], "evnt_time": "at"}}  # type: ignore[dict-item]
    pipelines = write(tmp_path / "pipelines", broken)
    for command in ("validate", "run", "demo", "check"):
        done = millrace(command, "tiny", pipelines=pipelines, state=tmp_path / "state")
        assert done.returncode == 2, (command, done.stderr)
        assert "field 'data.evnt_time' is not known: did you mean 'event_time'?" in done.stderr
        assert "next:" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
    assert not (tmp_path / "state").exists()


def test_an_unknown_pipeline_names_the_nearest(tmp_path: Path) -> None:
    pipelines = write(tmp_path / "pipelines", SPEC)
    done = millrace("run", "tny", pipelines=pipelines, state=tmp_path / "state")
    assert done.returncode == 2
    assert "did you mean 'tiny'?" in done.stderr


def test_a_stack_that_does_not_run_is_named(tmp_path: Path) -> None:
    pipelines = write(tmp_path / "pipelines", SPEC)
    env = {"MILLRACE_PREFECT_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "tiny"],
        cwd=ROOT,
        env=os.environ | env | {"MILLRACE_PIPELINES_DIR": str(pipelines), "MILLRACE_STATE_DIR": str(tmp_path / "s")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "Prefect at http://127.0.0.1:9 does not answer" in done.stderr
    assert "millrace up" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "tiny", "--as-of", "yesterday"), "ISO 8601"),
        (("replay", "tiny", "--start", "2013-05-01", "--end", "2013-04-01"), "a window must start before it ends"),
        (("rnu",), "No such command"),
        (("run",), "Missing argument"),
    ],
)
def test_bad_arguments_are_told(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    pipelines = write(tmp_path / "pipelines", SPEC)
    done = millrace(*arguments, pipelines=pipelines, state=tmp_path / "state")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_setting_that_does_not_exist_names_the_nearest(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "status"],
        cwd=ROOT,
        env=os.environ | {"MILLRACE_STATE_DIRR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean 'MILLRACE_STATE_DIR'?" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["new", "rows", "--from", "https://u:hush-hush@127.0.0.1:9/rows.csv", "--time", "at", "--label", "y"],
        ["run", "postgresql://u:hush-hush@db/x"],
        ["check", "tiny", "--as-of", "password=hush-hush"],
        ["versions", "--api-key=hush-hush", "tiny"],
        ["status", "--token", "hush-hush"],
        ["versions", "tiny", "password=hush-hush"],
        ["replay", "tiny", "--start", "x", "--end", "y", "--rows-per-request", "token=hush-hush"],
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(arguments: list[str], tmp_path: Path) -> None:
    done = millrace(*arguments, pipelines=write(tmp_path, SPEC), state=tmp_path / "state")
    assert done.returncode != 0
    assert done.stderr
    assert "hush" not in done.stdout + done.stderr


def test_a_customer_is_limited_and_no_longer(tmp_path: Path) -> None:
    made = json.loads(millrace("keys", "limit", "acme", "--rate", "2.5", "--json", state=tmp_path).stdout)
    assert made == {"customer": "acme", "limit": {"rate": 2.5, "burst": 3}, "daily": None}
    assert "2.5" in millrace("keys", "list", state=tmp_path).stdout
    assert (
        "2 times a second, 9 at once"
        in millrace("keys", "limit", "acme", "--rate", "2", "--burst", "9", state=tmp_path).stdout
    )
    assert "as each pipeline's spec says" in millrace("keys", "limit", "acme", state=tmp_path).stdout.replace("\n", " ")
    assert json.loads(millrace("keys", "list", "--json", state=tmp_path).stdout)["limits"] == {}
    for wrong in (["--rate", "0"], ["--burst", "3"], ["--rate", "x"], ["--daily", "0"], ["--daily", "1.5"]):
        done = millrace("keys", "limit", "acme", *wrong, state=tmp_path)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    made = json.loads(millrace("keys", "create", "acme", "--json", state=tmp_path).stdout)
    assert made["key"].startswith("mr_")
    shown = millrace("keys", "create", "umbrella", state=tmp_path).stdout.split()[-1]
    assert shown.startswith("mr_")
    revoked = json.loads(millrace("keys", "revoke", made["id"], "--json", state=tmp_path).stdout)["keys"][0]
    listed = millrace("keys", "list", "--json", state=tmp_path).stdout
    assert [key["customer"] for key in json.loads(listed)["keys"]] == ["acme", "umbrella"]
    assert json.loads(listed)["keys"][0] == revoked
    table = millrace("keys", "list", state=tmp_path).stdout
    assert made["id"] in table
    for key in (made["key"], shown):
        assert key not in listed + table


def test_a_key_that_is_not_there_cannot_be_revoked(tmp_path: Path) -> None:
    done = millrace("keys", "revoke", "nothing", state=tmp_path)
    assert done.returncode == 2
    assert "there is no key 'nothing'" in done.stderr
