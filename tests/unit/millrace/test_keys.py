"""Serving keys: shown once, kept as a hash, revoked for good."""

from __future__ import annotations

import hashlib
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import ArtifactError, ConfigError, UnknownNameError
from millrace.keys import KeyFile, KeyRing, digest_key
from millrace.limits import Limit


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "state" / "keys.json")


def test_without_a_file_there_are_no_keys(keys: KeyFile) -> None:
    assert keys.read() == KeyRing([], {})
    assert not keys.path.parent.exists(), "reading makes nothing"


def test_a_key_is_kept_as_its_hash_only(keys: KeyFile) -> None:
    made, key = keys.create("acme")
    assert keys.read().keys == [made]
    assert made.digest == hashlib.sha256(key.encode()).hexdigest() == digest_key(key)
    assert made.digest.startswith(made.id)
    text = keys.path.read_text()
    assert key not in text
    assert key.removeprefix("mr_") not in text
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600


def test_keys_differ_and_have_256_bits(keys: KeyFile) -> None:
    made = [keys.create("acme")[1] for _ in range(8)]
    assert len(set(made)) == 8
    # 32 bytes in base64 without padding.
    assert {len(key.removeprefix("mr_")) for key in made} == {43}


def test_a_revoked_key_stays_in_the_file(keys: KeyFile) -> None:
    made, _ = keys.create("acme")
    other, _ = keys.create("umbrella")
    revoked = keys.revoke(made.id)
    assert revoked.revoked_at is not None
    assert keys.read().keys == [revoked, other]
    assert keys.revoke(made.id) == revoked, "again changes nothing"


def test_an_unknown_key_is_named_with_the_nearest(keys: KeyFile) -> None:
    made, _ = keys.create("acme")
    with pytest.raises(UnknownNameError, match=f"did you mean '{made.id}'"):
        keys.revoke(made.id[:-1] + "x")


def test_who_revokes_by_the_key_itself_does_not_see_it_again(keys: KeyFile) -> None:
    _, key = keys.create("acme")
    with pytest.raises(UnknownNameError) as caught:
        keys.revoke(key)
    assert key[4:] not in str(caught.value)


@pytest.mark.parametrize("customer", ["", "Acme", "-acme", "a b", "a\n", "../x", "x" * 64])
def test_a_bad_name_is_refused_and_nothing_is_written(customer: str, keys: KeyFile) -> None:
    with pytest.raises(ConfigError, match="customer's name"):
        keys.create(customer)
    assert not keys.path.exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"keys": [{}]}', '{"keys": [{"customer": "a", "digest": "x", "created_at": ""}]}']
)
def test_a_damaged_file_is_refused_and_kept(content: str, keys: KeyFile) -> None:
    keys.path.parent.mkdir()
    keys.path.write_text(content)
    for change in (keys.read, lambda: keys.create("acme"), lambda: keys.revoke("0" * 12)):
        with pytest.raises(ArtifactError, match="cannot be read"):
            change()
    assert keys.path.read_text() == content


@given(content=st.binary(max_size=200))
def test_whatever_is_in_the_file_there_are_keys_or_a_clear_error(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        KeyFile(path).read()


def test_keys_made_at_the_same_time_are_all_kept(keys: KeyFile) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda number: keys.create(f"customer-{number}")[0], range(12)))
    assert sorted(key.digest for key in keys.read().keys) == sorted(key.digest for key in made)
    assert json.loads(keys.path.read_text())["keys"]


def test_a_limit_is_kept_beside_the_keys(keys: KeyFile) -> None:
    made, _ = keys.create("acme")
    keys.limit("acme", Limit.of(50, 100))
    keys.limit("umbrella", Limit.of(2))
    assert keys.read() == KeyRing([made], {"acme": Limit(50, 100), "umbrella": Limit(2, 2)})
    keys.limit("acme", None)
    keys.create("acme")
    assert keys.read().limits == {"umbrella": Limit(2, 2)}
    with pytest.raises(ConfigError, match="name"):
        keys.limit("No Name", None)


@pytest.mark.parametrize(
    "limits", [[], {"acme": 5}, {"acme": {"rate": -1}}, {"acme": {"rate": "x"}}, {"acme": {"b": 1}}]
)
def test_a_damaged_limit_is_told(limits: object, keys: KeyFile) -> None:
    keys.create("acme")
    document = json.loads(keys.path.read_text())
    keys.path.write_text(json.dumps({**document, "limits": limits}))
    with pytest.raises(ArtifactError, match="cannot be read"):
        keys.read()


def test_the_local_key_is_made_once_and_only_while_there_is_none(keys: KeyFile, tmp_path: Path) -> None:
    path = tmp_path / "serve.key"
    keys.create_local(path)
    key = path.read_text().strip()
    (made,) = keys.read().keys
    assert (made.customer, made.digest) == ("local", digest_key(key))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys.create_local(path)
    keys.revoke(made.id)
    keys.create_local(path)
    assert [one.id for one in keys.read().keys] == [made.id], "who revoked it wants none"
    assert path.read_text().strip() == key


def test_a_local_key_that_was_cut_off_from_its_hash_gets_it(keys: KeyFile, tmp_path: Path) -> None:
    """As when the process is killed between the two files."""
    path = tmp_path / "serve.key"
    path.write_text("mr_left-behind\n")
    keys.create_local(path)
    assert [key.digest for key in keys.read().keys] == [digest_key("mr_left-behind")]


def test_where_a_customer_has_a_key_there_is_no_local_one(keys: KeyFile, tmp_path: Path) -> None:
    keys.create("acme")
    keys.create_local(tmp_path / "serve.key")
    assert [key.customer for key in keys.read().keys] == ["acme"]
    assert not (tmp_path / "serve.key").exists()


def test_a_quota_is_kept_beside_the_limit(keys: KeyFile) -> None:
    keys.limit("acme", Limit.of(50, 100), 1000)
    keys.limit("umbrella", None, 5)
    assert keys.read() == KeyRing([], {"acme": Limit(50, 100)}, {"acme": 1000, "umbrella": 5})
    keys.limit("acme", Limit.of(50, 100))
    assert keys.read().quotas == {"umbrella": 5}, "what is said counts as a whole"
    with pytest.raises(ConfigError, match="quota"):
        keys.limit("umbrella", None, 0)
    assert keys.read().quotas == {"umbrella": 5}


@pytest.mark.parametrize("quotas", [[], {"acme": 0}, {"acme": "9"}, {"acme": 1.5}, {"acme": True}])
def test_a_damaged_quota_is_told(quotas: object, keys: KeyFile) -> None:
    keys.create("acme")
    document = json.loads(keys.path.read_text())
    keys.path.write_text(json.dumps({**document, "quotas": quotas}))
    with pytest.raises(ArtifactError, match="cannot be read"):
        keys.read()


def test_a_file_from_before_there_were_quotas_is_read(keys: KeyFile) -> None:
    made, _ = keys.create("acme")
    document = json.loads(keys.path.read_text())
    del document["quotas"]
    keys.path.write_text(json.dumps(document))
    assert keys.read() == KeyRing([made], {}, {})
