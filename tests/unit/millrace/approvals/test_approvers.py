"""The roster changes only by the signature of one who is on it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from benchmarks.reliability.approvals import Scene
from millrace.approvals import approvers
from millrace.approvals.keys import PrivateKey, key_path, load_key, public_key
from millrace.errors import ApprovalError, ConfigError, ConflictError, UnknownNameError
from millrace.ledger import Ledger


def test_the_first_vouches_for_himself_and_then_for_others(scene: Scene) -> None:
    roster = approvers.read_roster(scene.ledger)
    assert {name: found.vouched_by for name, found in roster.approvers.items()} == {"alice": "alice", "bob": "alice"}
    assert [found.is_first for found in roster.approvers.values()] == [True, False]
    assert roster.ignored == ()


def test_an_entry_without_the_right_signature_is_shown_and_ignored(scene: Scene) -> None:
    from millrace.ledger import Fact

    detail = {"public_key": scene.mallory.public, "person": "m", "by": "alice", "after": "x", "signature": "y"}
    scene.ledger.append(Fact("", approvers.ADDED, "mallory", detail))
    roster = approvers.read_roster(scene.ledger)
    assert "mallory" not in roster.approvers
    assert [entry.subject for entry in roster.ignored] == ["mallory"]
    carol = PrivateKey.new()
    approvers.add(scene.ledger, "carol", carol.public, "carol", "bob", scene.bob)
    assert "carol" in approvers.read_roster(scene.ledger).approvers, "it stands in nobody's way"


def test_the_last_one_stays(ledger: Ledger) -> None:
    key = PrivateKey.new()
    approvers.add(ledger, "alice", key.public, "alice", "alice", key)
    with pytest.raises(ConflictError, match="last approver"):
        approvers.remove(ledger, "alice", "alice", key)


def test_mistakes_are_told(scene: Scene) -> None:
    new = PrivateKey.new().public
    with pytest.raises(ConfigError, match="no name of an approver"):
        approvers.add(scene.ledger, "Alice B", new, "a", "alice", scene.alice)
    with pytest.raises(ConflictError, match="'bob' is enrolled already"):
        approvers.add(scene.ledger, "bob", new, "b", "alice", scene.alice)
    with pytest.raises(ConflictError, match="'bob' is enrolled already"):
        approvers.add(scene.ledger, "robert", scene.bob.public, "b", "alice", scene.alice)
    with pytest.raises(ConfigError, match="a person needs a name"):
        approvers.add(scene.ledger, "carol", new, "", "alice", scene.alice)
    with pytest.raises(UnknownNameError, match="'carol' is no approver"):
        approvers.remove(scene.ledger, "carol", "alice", scene.alice)
    with pytest.raises(ApprovalError, match="not the one of approver 'bob'"):
        approvers.remove(scene.ledger, "alice", "bob", scene.alice)


# Keys


def test_a_key_is_kept_in_a_file_of_its_own_that_only_its_owner_reads(tmp_path: Path) -> None:
    key = PrivateKey.new()
    path = key_path(tmp_path / "keys", "alice")
    key.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    name, found = load_key(path.parent, None)
    assert (name, found.public) == ("alice", key.public)
    with pytest.raises(ConfigError, match="exists"):
        PrivateKey.new().save(path)


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    path = key_path(tmp_path, "alice")
    PrivateKey.new().save(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        load_key(tmp_path, "alice")


@pytest.mark.parametrize("content", ["", "no key", "A" * 43 + "=", "é"])
def test_a_file_without_a_key_is_told(tmp_path: Path, content: str) -> None:
    path = key_path(tmp_path, "alice")
    path.write_text(content, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no key"):
        load_key(tmp_path, "alice")


def test_who_you_are_must_be_clear(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no approver's key"):
        load_key(tmp_path, None)
    for name in ("alice", "bob"):
        PrivateKey.new().save(key_path(tmp_path, name))
    with pytest.raises(UnknownNameError, match="which approver are you"):
        load_key(tmp_path, None)
    with pytest.raises(UnknownNameError, match="did you mean 'alice'"):
        load_key(tmp_path, "alica")
    with pytest.raises(ConfigError, match="no name of an approver"):
        load_key(tmp_path, "../alice")


def test_a_public_key_is_checked() -> None:
    key = PrivateKey.new().public
    assert public_key(key) == key
    with pytest.raises(ConfigError, match="no public key"):
        public_key(key[:-1])
