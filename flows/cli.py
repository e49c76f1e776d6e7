"""The `millrace` command. Heavy libraries are imported inside the commands: `--help` must answer at once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from flows.approval_commands import register
from millrace.errors import ConfigError, MillraceError
from millrace.secrets import redact, redact_value

app = typer.Typer(
    name="millrace",
    help="Train, judge, serve and watch models, and train them again when the world has moved.\n\n"
    "Begin with `millrace demo flight_delays`: it starts the embedded stack and closes the loop on a year of flights.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

keys = typer.Typer(
    help="Make, list and revoke the keys that ask for predictions (MILLRACE_KEYS_FILE).\n\n"
    "As soon as one exists, and always where MILLRACE_LISTEN is not loopback, a prediction needs "
    "its key as bearer token (header `authorization`). Replicas see a change with the next request.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(keys, name="keys")

Name = Annotated[str, typer.Argument(help="Name of the pipeline: a folder below MILLRACE_PIPELINES_DIR.")]
AsOf = Annotated[
    str | None,
    typer.Option("--as-of", metavar="TIME", help="Use what was known at this time (ISO 8601); default: now."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON on stdout, for scripts.")]


@app.callback()
def prepare(context: typer.Context) -> None:
    """Apply the settings before any library that reads the environment is imported."""
    context.obj = _settings()


@app.command()
def up(context: typer.Context, as_json: Json = False) -> None:
    """Start the embedded stack: Prefect, its worker, MLflow, Ray, Ray Serve, the reconciler. Safe to repeat.

    All state lives below .millrace (MILLRACE_STATE_DIR moves it). Everything listens on loopback, unless
    MILLRACE_LISTEN names another address: then MILLRACE_PREFECT_AUTH and MILLRACE_MLFLOW_AUTH must be set.
    """
    from flows.stack import bring_up

    _answer(bring_up(context.obj).as_dict(), as_json, "stack")


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show which parts of the stack run, where they answer, and what each pipeline serves."""
    from flows.stack import stack_and_pipelines

    _answer(stack_and_pipelines(context.obj), as_json, "stack")


@app.command()
def down(context: typer.Context) -> None:
    """Stop the embedded stack and leave no process behind. State is kept: `millrace up` goes on."""
    from flows.stack import take_down

    take_down(context.obj)


@app.command()
def validate(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Check a pipeline: its spec, that its code loads, that its source answers. Writes nothing."""
    from flows.inspect import validate_pipeline

    _answer(validate_pipeline(context.obj, name), as_json, "validation")


@app.command()
def schema() -> None:
    """Print the JSON Schema of pipeline.yaml, for editors.

    In an editor with a YAML language server: `millrace schema > pipeline.schema.json`, and in the file's first line
    `# yaml-language-server: $schema=pipeline.schema.json`.
    """
    from millrace.spec import PipelineSpec

    typer.echo(json.dumps(PipelineSpec.model_json_schema(), indent=2))


@app.command()
def run(context: typer.Context, name: Name, as_of: AsOf = None, as_json: Json = False) -> None:
    """Train a challenger and promote it when it is better than what serves."""
    from flows.follow import run_training

    _answer(run_training(context.obj, name, _time(as_of)), as_json, "training")


@app.command()
def check(context: typer.Context, name: Name, as_of: AsOf = None, as_json: Json = False) -> None:
    """Check the newest window of answered requests for drift and quality; a bad one may start a retraining."""
    from flows.follow import run_check

    _answer(run_check(context.obj, name, _time(as_of)), as_json, "check")


@app.command()
def replay(
    context: typer.Context,
    name: Name,
    start: Annotated[str, typer.Option("--start", metavar="TIME", help="Begin of the window (ISO 8601).")],
    end: Annotated[str, typer.Option("--end", metavar="TIME", help="End of the window, not included.")],
    rows_per_request: Annotated[int, typer.Option(min=1, max=10_000, help="Rows in one request.")] = 64,
    as_json: Json = False,
) -> None:
    """Send a window of the past through the live endpoint, in event-time order, outcomes as they became known."""
    from flows.follow import run_replay
    from millrace.window import Window

    window = Window.asked(_time(start), _time(end))
    _answer(run_replay(context.obj, name, window.start, window.end, rows_per_request), as_json, "replay")


@app.command()
def rollback(
    context: typer.Context,
    name: Name,
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="The version; default: the one before.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Let the version that served before serve again, without a dropped request."""
    from flows.roll_back import run_rollback

    _answer(run_rollback(context.obj, name, to), as_json, "rollback")


@app.command()
def traffic(
    context: typer.Context,
    name: Name,
    share: Annotated[
        list[str] | None,
        typer.Option("--share", metavar="VERSION=SHARE", help="Share of a version, from 0 to 1; all of them sum to 1."),
    ] = None,
    pin: Annotated[
        list[str] | None, typer.Option("--pin", metavar="CUSTOMER=VERSION", help="Which version a customer meets.")
    ] = None,
    unpin: Annotated[
        list[str] | None, typer.Option("--unpin", metavar="CUSTOMER", help="Let a customer go again.")
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option("--shadow", metavar="VERSION=SHARE", help="Mirror this share to a version; 0 ends it."),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="VERSION", help="All requests to a version: no pins, no shadow.")
    ] = None,
    sticky: Annotated[
        str | None, typer.Option("--sticky", help="What stays with its version: session, customer or request.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show which versions answer whom, or change it: live, without a dropped request.

    The champion stays the champion: a promotion or a rollback ends what answers beside it.
    """
    from flows.traffic import change_of, run_traffic, show_traffic

    change = change_of(share or (), pin or (), unpin or (), shadow, only, sticky)
    found = show_traffic(context.obj, name) if change.is_empty else run_traffic(context.obj, name, change)
    _answer(found, as_json, "traffic")


@app.command()
def rollout(
    context: typer.Context,
    name: Name,
    resume: Annotated[
        bool, typer.Option("--resume", help="Have one go on whose flow run was cancelled or has failed.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End it: the champion answers all requests again.")] = False,
    as_json: Json = False,
) -> None:
    """Show the rollout that goes on, or the last one: steps, shares, requests, tests, verdict.

    It goes by the `rollout` section of pipeline.yaml. A rollback or `millrace traffic` ends it, too.
    """
    from flows.roll_out import resume_rollout, show_rollout, stop_rollout

    if resume and stop:
        raise typer.BadParameter("--resume and --stop are two different things")
    act = resume_rollout if resume else stop_rollout if stop else show_rollout
    _answer(act(context.obj, name), as_json, "rollout")


@app.command()
def shadow(
    context: typer.Context,
    name: Name,
    version: Annotated[
        str | None, typer.Option("--version", metavar="VERSION", help="The shadow; default: the one mirrored to last.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="How far an answer may be off and count as the same; default: 0.05 of a probability."),
    ] = None,
    most_moved: Annotated[float | None, typer.Option(help="Share of answers that may move; default: 0.05.")] = None,
    as_json: Json = False,
) -> None:
    """Tell how a version that is mirrored to (`millrace traffic --shadow`) answers otherwise than what serves."""
    from flows.shadow import judge

    _answer(judge(context.obj, name, version, tolerance, most_moved), as_json, "shadow")


@app.command()
def versions(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """List the model's versions: which serves, how each was judged."""
    from flows.inspect import list_versions

    _answer(list_versions(context.obj, name), as_json, "versions")


@app.command()
def export(
    context: typer.Context,
    name: Name,
    to: Annotated[str, typer.Option("--to", metavar="FOLDER", help="An empty folder, or one that is made.")],
    version: Annotated[
        str | None, typer.Option("--version", metavar="VERSION", help="The version; default: the champion.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a version's weights and configuration as Hugging Face's libraries load them: safetensors and config.json.

    The pipeline says what its model is called there (`model.export` in the spec).
    """
    from pathlib import Path

    from flows.export import export_version

    _answer(export_version(context.obj, name, Path(to), version), as_json, "exported")


@app.command()
def history(
    context: typer.Context,
    name: Name,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="Tell what served at this time (ISO 8601), and why.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show what runs note for themselves, too.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check that no entry of the ledger was altered.")] = False,
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="DIGEST", help="Verify, also that what an earlier --verify printed is there."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what served at any moment, why, and who decided: promotions, refusals, rollbacks, incidents, answers.

    The ledger is a chain of digests: --verify finds an entry that was changed, removed or put between.
    """
    from flows.history import history as tell

    answer = tell(context.obj, name, at=_time(at), everything=everything, verify=verify, head=head)
    _answer(answer, as_json, "history")


@app.command()
def demo(
    context: typer.Context,
    name: Name = "flight_delays",
    first: Annotated[
        str | None, typer.Option("--first", metavar="TIME", help="Train the first model as of this time (ISO 8601).")
    ] = None,
    last: Annotated[str | None, typer.Option("--last", metavar="TIME", help="End the demo at this time.")] = None,
    as_json: Json = False,
) -> None:
    """Close the loop on a pipeline's past: train, serve, replay, check, retrain, promote, window by window.

    Stopped or failed on the way, it goes on where it was when it is started again.
    """
    from flows.demo import run_demo

    _answer(run_demo(context.obj, name, _time(first), _time(last)), as_json, "demo")


@app.command()
def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the new pipeline: lower case, digits, underscores.")],
    table: Annotated[
        str, typer.Option("--from", metavar="FILE_OR_URL", help="CSV or Parquet, a path or an fsspec URL.")
    ],
    time: Annotated[str, typer.Option("--time", metavar="COLUMN", help="Column with the time of the event.")],
    label: Annotated[str, typer.Option("--label", metavar="COLUMN", help="Column with what is predicted.")],
    row_id: Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="Column that names a row.")] = None,
    known_after_days: Annotated[
        float, typer.Option(min=0, help="Days after the event at which its label becomes known.")
    ] = 0.0,
    time_format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="How times are written (strptime), where they are ambiguous.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the pipeline folder of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Write a pipeline folder for your own table: a contract inferred from it, a sound model, gates and brakes.

    It runs as it is: `millrace demo NAME` closes the loop on it. Correct what was inferred in its pipeline.yaml.
    """
    from flows.inspect import create

    made = create(
        context.obj,
        name,
        table,
        time=time,
        label=label,
        row_id=row_id,
        known_after_days=known_after_days,
        time_format=time_format,
        force=force,
    )
    _answer(made, as_json, "created")


@keys.command("create")
def create_key(
    context: typer.Context,
    customer: Annotated[str, typer.Argument(help="Whose key it is: lower case, digits, '.', '_', '-'.")],
    as_json: Json = False,
) -> None:
    """Make a key and show it: only now, as only its hash is kept."""
    from millrace.keys import KeyFile

    made, key = KeyFile(context.obj.keys_path).create(customer)
    _answer({**made.as_dict(), "key": key}, as_json, "created_key")


@keys.command("list")
def list_keys(context: typer.Context, as_json: Json = False) -> None:
    """List the keys: whose, since when, revoked or not, how often each customer may ask, and how often it has today.

    The keys themselves are nowhere kept.
    """
    from flows.keys import list_keys as listed

    _answer(listed(context.obj), as_json, "keys")


@keys.command("limit")
def limit_customer(
    context: typer.Context,
    customer: Annotated[str, typer.Argument(help="Whose requests, over all its keys and all replicas.")],
    rate: Annotated[
        float | None, typer.Option(min=0, help="Requests a second; none: as each pipeline's spec says.")
    ] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="Requests at once; none: a second's worth.")] = None,
    daily: Annotated[
        int | None, typer.Option(min=1, help="Requests a day (UTC), of each pipeline; none: as its spec says.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how often a customer may ask for predictions, and how many times a day; what was said before is forgotten."""
    from millrace.keys import KeyFile
    from millrace.limits import Limit

    if rate is None and burst is not None:
        raise typer.BadParameter("--burst needs --rate")
    limit = None if rate is None else Limit.of(rate, burst)
    KeyFile(context.obj.keys_path).limit(customer, limit, daily)
    _answer({"customer": customer, "limit": limit and limit.as_dict(), "daily": daily}, as_json, "limited")


@keys.command("revoke")
def revoke_key(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `millrace keys list` shows it.")],
    as_json: Json = False,
) -> None:
    """Refuse a key from now on. Predictions go on needing one, even when none is left."""
    from millrace.keys import KeyFile

    revoked = KeyFile(context.obj.keys_path).revoke(key_id)
    _answer({"keys": [revoked.as_dict()], "limits": {}, "usage": []}, as_json, "keys")


def main() -> None:
    """Run the command; an error becomes a message and an exit code, never a traceback."""
    from millrace import redaction

    redaction.install(streams=True)
    try:
        app()
    except MillraceError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        if os.environ.get("MILLRACE_LOG_LEVEL") == "DEBUG":
            raise
        _fail(
            f"unexpected {type(error).__name__}: {error}\n"
            "  next: set MILLRACE_LOG_LEVEL=DEBUG to see the traceback, and report it",
            1,
        )


def _fail(message: str, exit_code: int) -> NoReturn:
    typer.echo(f"millrace: {redact(message)}", err=True)
    sys.exit(exit_code)


def _settings() -> Any:
    """The settings, with the environment that the libraries behind the commands read when they are imported."""
    from infra.local.environment import environment
    from millrace import logs
    from millrace.settings import load_settings

    settings = load_settings()
    os.environ.update(environment(settings))
    # Commands show progress of their own; each line of a flow run is kept by Prefect, and shown here for debugging.
    shown = settings.log_level if settings.log_level in ("DEBUG", "ERROR") else "WARNING"
    # Prefect logs an error with its traceback before it raises it; the command tells it once, without.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", shown if shown == "DEBUG" else "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", logs.LOGGER)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", shown)
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    logs.configure(settings.log_level, json_lines=settings.log_json, shown=shown)
    return settings


def _time(text: str | None) -> Any:
    if text is None:
        return None
    from datetime import datetime

    from millrace.window import known_moment

    try:
        return known_moment(datetime.fromisoformat(text))
    except ValueError:
        raise ConfigError(
            "a time cannot be read",
            got=text,
            allowed="ISO 8601, for example 2013-04-01 or 2013-04-01T12:00:00Z",
            next="correct it",
        ) from None


def _answer(answer: Any, as_json: bool, kind: str) -> None:
    """Print an answer: JSON for scripts, tables for people."""
    answer = redact_value(answer)
    if as_json:
        typer.echo(json.dumps(answer, indent=2, default=str))
        return
    from flows import show

    shower: Callable[[Any], None] = getattr(show, kind)
    shower(answer)


register(app, _answer)

if __name__ == "__main__":
    main()
