"""A package that the policy does not allow, or that an advisory touches, is found; so is an exception without need."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from infra.supply import audit
from infra.supply.audit import Policy, advisory_problems, licence_problems, read_lock

ROOT = Path(__file__).resolve().parents[4]
POLICY = Policy(
    allowed=frozenset({"MIT", "Apache-2.0"}),
    allowed_exceptions=frozenset({"LLVM-exception"}),
    names={"MIT License": "MIT"},
)


def advisory(package: str, *events: dict[str, str], name: str = "CVE-1") -> dict[str, Any]:
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}]
    return {
        "id": name,
        "summary": "bad",
        "affected": [{"package": {"ecosystem": "PyPI", "name": package}, "ranges": ranges}],
        "references": [{"type": "WEB", "url": "https://example.com"}],
    }


def test_the_lock_is_read_with_its_markers_hashes_and_comments() -> None:
    text = "# a\nTorch==2.6.0\n    # via x\nuvloop==0.1 ; sys_platform != 'win32' \\\n    --hash=sha256:ab\n"
    text += "ray[serve]==2.60.0 # c\n"
    assert read_lock(text) == {"torch": Version("2.6.0"), "uvloop": Version("0.1"), "ray": Version("2.60.0")}
    with pytest.raises(ValueError, match="pins no version"):
        read_lock("torch>=2\n")


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        (["MIT"], None),
        (["MIT License"], None),
        (["MIT OR GPL-3.0-only"], None),
        (["(Apache-2.0 AND MIT) OR GPL-3.0-only"], None),
        (["Apache-2.0 WITH LLVM-exception"], None),
        (["GPL-3.0-only WITH LLVM-exception"], "not allowed"),
        (["MIT AND GPL-3.0-only"], "not allowed: MIT AND GPL-3.0-only"),
        (["AGPL-3.0-only"], "not allowed"),
        (["Free For All"], "cannot be read: ['Free For All']"),
        ([], "cannot be read: []"),
    ],
)
def test_a_package_has_an_allowed_licence(told: list[str], problem: str | None) -> None:
    found = licence_problems(["x"], POLICY, lambda _: told)
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


def test_an_exception_counts_where_it_is_needed_only() -> None:
    policy = Policy(POLICY.allowed, excepted={"x": "it is a program of its own", "y": "for nothing"})
    assert licence_problems(["x", "y"], policy, {"x": ["GPL-2.0-only"], "y": ["MIT"]}.__getitem__) == [
        "y: is excepted without need"
    ]


def test_a_licence_that_only_its_file_names_may_be_stated() -> None:
    policy = Policy(POLICY.allowed, stated={"x": "MIT"})
    assert licence_problems(["x"], policy, lambda _: []) == []


@pytest.mark.parametrize(
    ("version", "found"), [("1.9", False), ("2.0", True), ("2.5.9", True), ("2.6.0", False), ("3.0", True)]
)
def test_a_vulnerable_version_is_found(version: str, found: bool) -> None:
    events = ({"introduced": "2.0"}, {"fixed": "2.6.0"}, {"introduced": "3.0"}, {"last_affected": "3.1"})
    problems = advisory_problems({"torch": Version(version)}, POLICY, [advisory("Torch", *events)])
    assert bool(problems) == found
    if found:
        assert problems == [f"torch {version}: CVE-1, bad; fixed in 2.6.0; https://example.com"]


def test_an_advisory_without_a_fix_may_be_accepted_with_a_reason_while_it_touches() -> None:
    known = [advisory("mlflow", {"introduced": "0"})]
    lock = {"mlflow": Version("3.17.2")}
    assert "no release is known to be free of it" in advisory_problems(lock, POLICY, known)[0]
    accepted = Policy(POLICY.allowed, accepted={"CVE-1": "never loaded"})
    assert advisory_problems(lock, accepted, known) == []
    assert advisory_problems({}, accepted, known) == ["CVE-1: is accepted, but touches nothing"]


def test_this_lock_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main() == 0, capsys.readouterr().err


def test_this_lock_with_an_old_package_does_not() -> None:
    known = json.loads((ROOT / "infra/supply/advisories.json").read_text())
    lock = read_lock((ROOT / "requirements.lock").read_text()) | {"torch": Version("2.5.1"), "nltk": Version("3.8.1")}
    found = advisory_problems(lock, Policy.read(), known["advisories"])
    assert {line.split(":")[0] for line in found} == {"torch 2.5.1", "nltk 3.8.1"}
    assert {found["affected"][0]["package"]["name"] for found in known["advisories"]} <= set(lock)
    assert all(found["references"][0]["url"].startswith("https://") for found in known["advisories"])


def test_every_exception_has_a_reason() -> None:
    document = tomllib.loads((ROOT / "infra/supply/policy.toml").read_text())
    for section in ("excepted", "accepted"):
        assert all(reason.endswith(".") and len(reason) > 10 for reason in document[section].values())
