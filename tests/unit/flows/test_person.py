"""A command knows who runs it, also where the system has no name for him."""

from __future__ import annotations

import os

import pytest

from flows.person import person

_VARIABLES = ("LOGNAME", "USER", "LNAME", "USERNAME")


def test_a_user_has_his_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "alice")
    assert person() == "person:alice"


def test_a_user_without_a_name_has_his_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999_999)
    assert person() == "person:uid-3999999999"
