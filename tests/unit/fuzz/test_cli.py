"""Whatever is typed: an answer, or one message and an exit code of the table; never a traceback, never a hang."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flows import cli
from millrace.errors import MillraceError
from millrace.pipeline import Pipeline
from tests.unit.fuzz.material import examples, texts

_ERRORS: tuple[type[MillraceError], ...] = (MillraceError, *MillraceError.__subclasses__())
_EXIT_CODES = {0} | {kind.exit_code for kind in _ERRORS} - {1}
_OFFLINE = ["validate", "schema", "run", "check", "replay", "rollback", "versions", "export", "new", "status", "down"]
_OPTIONS = [
    "--as-of",
    "--json",
    "--start",
    "--end",
    "--rows-per-request",
    "--to",
    "--first",
    "--last",
    "--from",
    "--time",
    "--label",
    "--id",
    "--known-after-days",
    "--time-format",
    "--force",
    "--help",
    "--",
    "-",
    "-h",
    "--oh",
]

#: Times as people and programs write them, wrong in every way that parsers differ on.
times = st.one_of(
    texts,
    st.datetimes(timezones=st.one_of(st.none(), st.timezones())).map(lambda moment: moment.isoformat()),
    st.sampled_from(
        [
            "9999-12-31T23:59:59-23:59",
            "0001-01-01T00:00:00+23:59",
            "2013-W01-1",
            "20130101T000000Z",
            "24:00",
            "2013-02-30",
            "1e9",
            "-1",
            "now",
            "2013-01-01 ",
            "262000-01-01",
            "2013-01-01T00:00:60Z",
            "2013-\u0660\u0661-01",
        ]
    ),
)


class Typed:
    """The command in this process, over a folder with a sound pipeline `tiny` and a broken one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        broken = root / "pipelines" / "broken"
        broken.mkdir(parents=True)
        (broken / "pipeline.yaml").write_text("name: [")
        (root / "table.csv").write_text(
            "at,x,y\n" + "".join(f"2024-01-{n % 28 + 1:02},{n},{n % 2}\n" for n in range(60))
        )

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code and stderr, with streams that encode as those of a terminal do."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
        before = dict(os.environ)
        with (
            pytest.MonkeyPatch.context() as patch,
            warnings.catch_warnings(),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            warnings.simplefilter("ignore")
            patch.setattr(sys, "argv", ["millrace", *arguments])
            # Port 9 is `discard`: nothing listens there.
            os.environ |= {
                f"MILLRACE_{service}_URL": "http://127.0.0.1:9" for service in ("PREFECT", "MLFLOW", "SERVE")
            }
            os.environ |= {
                f"MILLRACE_{folder.upper()}_DIR": str(self.root / folder) for folder in ("state", "pipelines")
            }
            try:
                cli.main()
                code: Any = 0
            except SystemExit as ended:
                code = ended.code or 0
            finally:
                for name in set(os.environ) - set(before):
                    del os.environ[name]
                os.environ |= before
        err.flush()
        return code, err.buffer.getvalue().decode()

    def assert_told(self, *arguments: str) -> int:
        code, told = self(*arguments)
        assert "Traceback" not in told
        assert code in _EXIT_CODES, (code, arguments, told)
        if code:
            assert told.startswith(("millrace: ", "Usage: ", "Error: ")), told
            assert len(told) < 20_000 + 2 * sum(map(len, arguments))
        return code


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory, write_pipeline: Callable[..., Pipeline]) -> Typed:
    root = tmp_path_factory.mktemp("typed")
    made = Typed(root)
    write_pipeline(root)
    return made


_words = st.one_of(
    st.sampled_from(
        ["tiny", "broken", "no_such", "..", "", "tiny/../tiny", "-1", "2013-01-01", "NaN", "1e400", "at", "y"]
    ),
    st.sampled_from(_OPTIONS),
    texts.filter(lambda text: "\x00" not in text),  # no process can be given one
)


@given(arguments=st.lists(_words, max_size=6), command=st.sampled_from(["", *_OFFLINE]))
@examples(1.5)
def test_any_arguments(typed: Typed, arguments: list[str], command: str) -> None:
    typed.assert_told(*filter(None, [command]), *arguments)


@given(command=st.sampled_from(["run", "check"]), moment=times)
@example(command="run", moment="9999-12-31T23:59:59-23:59")
@example(command="run", moment="0001-01-01")
def test_any_time(typed: Typed, command: str, moment: str) -> None:
    """A time that can be read goes on to Prefect, which does not run here; any other is refused before."""
    assert typed.assert_told(command, "tiny", f"--as-of={moment}") in (2, 4)


@given(start=times, end=times)
@examples(2)
def test_any_window(typed: Typed, start: str, end: str) -> None:
    assert typed.assert_told("replay", "tiny", f"--start={start}", f"--end={end}") in (2, 4)


@given(first=times, last=times)
@examples(2)
def test_any_demo_window_of_a_broken_pipeline(typed: Typed, first: str, last: str) -> None:
    assert typed.assert_told("demo", "broken", f"--first={first}", f"--last={last}") == 2


@given(name=texts.filter(lambda text: "\x00" not in text))
@examples(2)
def test_any_name(typed: Typed, name: str) -> None:
    for command in ("validate", "run", "versions", "rollback", "demo"):
        assert typed.assert_told(command, "--", name) == 2


_new = st.fixed_dictionaries(
    {
        "--from": st.one_of(
            texts, st.sampled_from(["TABLE", "/", "http://127.0.0.1:9/t.csv", "s3:///", "x://y", "file:///"])
        )
    },
    optional={
        "--time": st.one_of(texts, st.just("at")),
        "--label": st.one_of(texts, st.just("y")),
        "--id": st.one_of(texts, st.just("x")),
        "--known-after-days": st.one_of(texts, st.floats().map(str), st.sampled_from(["1e300", "nan", "9999999"])),
        "--time-format": st.one_of(texts, st.sampled_from(["%Y", "%", "%Q", "%Y-%m-%d", "ISO8601", "mixed"])),
    },
)


@given(options=_new, name=st.one_of(texts, st.just("made")))
@examples(1)
def test_any_new_pipeline(typed: Typed, options: dict[str, Any], name: str) -> None:
    told = {"--time": "at", "--label": "y"} | options
    if told["--from"] == "TABLE":
        told["--from"] = str(typed.root / "table.csv")
    arguments = [f"{option}={value}" for option, value in told.items()]
    if any("\x00" in argument for argument in (*arguments, name)):
        return
    folders = typed.root / "pipelines"
    before = set(folders.iterdir())
    code = typed.assert_told("new", *arguments, "--force", "--", name)
    assert set(folders.iterdir()) - before <= ({folders / name} if code == 0 else set())
