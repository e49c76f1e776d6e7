"""Marks each test by the folder it lies in, and keeps the developer's own environment out of the unit tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

pytest_plugins = ["tests.live", "tests.postgres"]

_HERE = Path(__file__).parent
_LEVELS = ("unit", "integration", "e2e", "chaos", "gpu")
_PREFIXES = ("MILLRACE_", "PREFECT_", "MLFLOW_", "RAY_", "AWS_")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY")

# The same examples at each run, so that a change alone can break a test; `thorough` looks for new ones (`make fuzz`).
_PHASES = tuple(phase for phase in Phase if phase is not Phase.explain)  # which runs a failing test many times more
settings.register_profile("millrace", deadline=None, derandomize=True, max_examples=60, phases=_PHASES)
settings.register_profile("thorough", deadline=None, derandomize=False, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "millrace"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before `-m` is applied, so that `-m unit` selects tests/unit."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            level = item.path.relative_to(_HERE).parts[0]
            if level in _LEVELS:
                item.add_marker(level)


@pytest.fixture(autouse=True)
def _clean_environment(request: pytest.FixtureRequest) -> Iterator[None]:
    """No unit test sees a stack, a proxy or a credential of the shell it was started from."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("unit"):
            for name in list(os.environ):
                if name.startswith(_PREFIXES) or name.upper() in _PROXIES:
                    patch.delenv(name)
        yield
