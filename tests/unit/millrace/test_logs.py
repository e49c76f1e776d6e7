"""Logs: one event a line on stderr, with the run's identifiers; stdout stays the command's answer."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from millrace import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    logger = logging.getLogger(logs.LOGGER)
    before = (logger.level, list(logger.handlers), logger.propagate)
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    logger.level, logger.handlers, logger.propagate = before


def test_an_event_is_one_json_object_with_its_identifiers(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(json_lines=True)
    with logs.identified(pipeline="tiny", run="r1"):
        logs.get_logger().info("staged", rows=3)
    logs.get_logger().warning("after")
    out, err = capsys.readouterr()
    assert out == ""
    first, second = (json.loads(line) for line in err.splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {"event": "staged", "rows": 3, "pipeline": "tiny", "run": "r1", "level": "info"}
    assert "pipeline" not in second, "the identifiers end with their block"


def test_an_error_is_logged_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(json_lines=True)
    try:
        raise KeyError("lost")
    except KeyError:
        logs.get_logger().exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "KeyError: 'lost'" in json.loads(line)["exception"]


def test_levels_below_the_asked_one_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("WARNING")
    logs.get_logger().info("quiet")
    logs.get_logger().warning("loud")
    assert [("quiet" in line, "loud" in line) for line in capsys.readouterr().err.splitlines()] == [(False, True)]


def test_what_is_shown_may_be_less_than_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", shown="ERROR")
    kept: list[str] = []
    keeper = logging.Handler()
    keeper.emit = lambda record: kept.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(logs.LOGGER).addHandler(keeper)
    logs.get_logger().info("for Prefect")
    assert capsys.readouterr().err == ""
    assert len(kept) == 1
    logs.configure("INFO", shown="ERROR")
    assert keeper in logging.getLogger(logs.LOGGER).handlers, "a handler of others stays"


def test_configuring_twice_writes_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert not logs.is_configured()
    for _ in range(3):
        logs.configure()
    assert logs.is_configured()
    logs.get_logger().info("once")
    assert len(capsys.readouterr().err.splitlines()) == 1


IMPORT_ALL = """
import importlib, json, logging, os, pkgutil, sys, threading, warnings
warnings.simplefilter("ignore")
before = dict(os.environ)
names, failed = [], {}
def walk(name):
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        failed[name] = repr(error)
        return
    names.append(name)
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        walk(f"{name}.{found.name}")
for package in ("millrace", "ray_jobs", "tasks", "flows", "infra"):
    walk(package)
import ray, structlog
print(json.dumps({
    "names": names,
    "failed": failed,
    "folders": sorted(os.listdir(".")),
    "ray": ray.is_initialized(),
    "structlog": structlog.is_configured(),
    # Prefect sets up its own logging when it is imported; nobody else may.
    "handlers": [
        str(handler) for name in ("", "millrace") for handler in logging.getLogger(name).handlers
        if not type(handler).__module__.startswith("prefect.")
    ],
    "threads": [thread.name for thread in threading.enumerate() if not thread.daemon],
    "environment": sorted(name for name in os.environ if name.startswith("MILLRACE_")),
}))
"""


@pytest.mark.timeout(180)
def test_importing_every_module_does_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    here, home = tmp_path_factory.mktemp("cwd"), tmp_path_factory.mktemp("home")
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=here, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["failed"] == {}
    assert {"millrace.storage", "ray_jobs.train.loop", "tasks.registry", "flows.cli", "infra.local.stack"} <= set(
        facts["names"]
    )
    assert facts["folders"] == [], "no file, no folder where it runs"
    # Importing Prefect makes its own empty folder in the home; that is Prefect's doing.
    assert [path.name for path in home.rglob("*") if path != home / ".prefect"] == []
    assert (facts["ray"], facts["structlog"], facts["handlers"]) == (False, False, [])
    assert facts["threads"] == ["MainThread"]
    assert facts["environment"] == []
    assert done.stderr == ""
