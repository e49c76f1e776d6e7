"""A flow run is told where its flow is, when its deployment's pull steps do nothing but name a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.local.direct_runs import named_folder

STEP = "prefect.deployments.steps.set_working_directory"


def test_a_lone_folder_is_named() -> None:
    assert named_folder([{STEP: {"directory": "/project"}}]) == Path("/project")


@pytest.mark.parametrize(
    "steps",
    [
        None,
        [],
        [{STEP: {}}],
        [{STEP: {"directory": None}}],
        [{STEP: {"directory": "/project", "requires": "extra"}}],
        [{STEP: {"directory": "/project"}}, {"prefect.deployments.steps.run_shell_script": {"script": "true"}}],
        [{"prefect.deployments.steps.git_clone": {"repository": "https://host/project"}}],
        [{STEP: {"directory": "/project"}, "prefect.deployments.steps.git_clone": {"repository": "x"}}],
    ],
)
def test_other_steps_are_left_to_the_run(steps: list[dict[str, Any]] | None) -> None:
    assert named_folder(steps) is None
