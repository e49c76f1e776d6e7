"""What was signed is taken as it was, under the key it was signed for, from those who are trusted."""

from __future__ import annotations

import pickle
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.errors import SettingsError, SignatureError
from millrace.settings import Settings
from millrace.signing import Keys
from millrace.storage import ObjectStore


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys") / "signing.key")
    made.create()
    return made


@given(
    key=st.text(max_size=20).filter(lambda text: "\0" not in text and text.isascii()), document=st.binary(max_size=200)
)
@settings(max_examples=50, deadline=None)
def test_what_was_sealed_is_opened(key: str, document: bytes, keys: Keys) -> None:
    assert keys.open(key, keys.seal(key, document), "here") == document


@given(document=st.binary(min_size=1, max_size=100), position=st.integers(0, 10_000), flip=st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_any_changed_byte_is_refused(document: bytes, position: int, flip: int, keys: Keys) -> None:
    sealed = bytearray(keys.seal("k", document))
    sealed[position % len(sealed)] ^= flip
    with pytest.raises(SignatureError):
        keys.open("k", bytes(sealed), "here")


@pytest.mark.parametrize("other", ["", "k2", "K", "k/", "k\0"])
def test_a_signature_holds_for_its_own_key(other: str, keys: Keys) -> None:
    with pytest.raises(SignatureError, match="was signed for another key"):
        keys.open(other, keys.seal("k", b"document"), "here")


def test_what_moves_from_key_to_document_is_refused(keys: Keys) -> None:
    line = keys.seal("a", b"b\0c").partition(b"\n")[0]
    with pytest.raises(SignatureError):
        keys.open("a\0b", line + b"\nc", "here")


def test_what_nobody_signed_says_what_to_do(keys: Keys) -> None:
    with pytest.raises(SignatureError) as caught:
        keys.open("a/k", b'{"entries": {}}', "store/a/k")
    assert caught.value.what == "manifest of store/a/k is not signed"
    assert caught.value.allowed == f"a signature by a key in {keys.public}"
    assert "from before artifacts were signed" in (caught.value.next or "")


# Keys


def test_the_private_key_is_private_and_made_once(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "new" / "signing.key")
    keys.create()
    before = keys.private.read_bytes(), keys.public.read_bytes()
    assert stat.S_IMODE(keys.private.stat().st_mode) == 0o600
    keys.create()
    assert (keys.private.read_bytes(), keys.public.read_bytes()) == before
    assert len(list(keys.private.parent.iterdir())) == 2, "no partial file stays"


def test_of_many_who_make_it_at_once_all_have_the_same(tmp_path: Path) -> None:
    keys, barrier = Keys(tmp_path / "signing.key"), threading.Barrier(6)

    def make(_: int) -> bytes:
        barrier.wait(20)
        keys.create()
        return keys.seal("k", b"x")

    with ThreadPoolExecutor(6) as pool:
        sealed = list(pool.map(make, range(6)))
    assert [keys.open("k", one, "here") for one in sealed] == [b"x"] * 6


def test_a_key_that_was_killed_between_its_halves_is_completed(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "signing.key")
    keys.create()
    sealed = keys.seal("k", b"x")
    keys.public.unlink()
    keys.create()
    assert keys.open("k", sealed, "here") == b"x"


def test_keys_are_rotated_as_the_guide_says(tmp_path: Path) -> None:
    old, new = Keys(tmp_path / "signing.key"), Keys(tmp_path / "next" / "signing.key")
    old.create()
    new.create()
    first = old.seal("k", b"1")
    old.public.write_bytes(old.public.read_bytes() + new.public.read_bytes())
    new.private.replace(old.private)
    second = old.seal("k", b"2")
    assert first.split()[3] != second.split()[3]
    assert (old.open("k", first, "here"), old.open("k", second, "here")) == (b"1", b"2")
    new.public.replace(old.public)
    assert old.open("k", second, "here") == b"2"
    with pytest.raises(SignatureError, match="by a key that is not trusted"):
        old.open("k", first, "here")


def test_openssl_makes_the_same_keys(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "signing.key")
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", keys.private], check=True, capture_output=True
    )
    keys.private.chmod(0o600)
    subprocess.run(
        ["openssl", "pkey", "-in", keys.private, "-pubout", "-out", keys.public], check=True, capture_output=True
    )
    keys.public.chmod(0o644)
    assert keys.open("k", keys.seal("k", b"x"), "here") == b"x"


@pytest.mark.parametrize(
    ("half", "mode"), [("private", 0o644), ("private", 0o660), ("public", 0o666), ("public", 0o664)]
)
def test_a_key_that_others_may_use_is_refused(half: str, mode: int, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "signing.key")
    keys.create()
    sealed = keys.seal("k", b"x")
    getattr(keys, half).chmod(mode)
    with pytest.raises(SettingsError, match="others may read or change"):
        keys.open("k", sealed, "here") if half == "public" else keys.seal("k", b"x")


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_that_holds_no_key_is_refused(content: bytes, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "signing.key")
    keys.create()
    sealed = keys.seal("k", b"x")
    for path in (keys.private, keys.public):
        path.write_bytes(content)
    for use in (lambda: keys.seal("k", b"x"), lambda: keys.open("k", sealed, "here")):
        with pytest.raises(SettingsError, match="holds no key that signs artifacts"):
            use()


def test_a_missing_key_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no signing key") as caught:
        ObjectStore.of(Settings(state_dir=tmp_path)).publish("k", {})
    assert "`millrace up` makes one" in (caught.value.next or "")


# In a store


def test_a_store_with_keys_travels_without_them(keys: Keys, tmp_path: Path) -> None:
    artifact = ObjectStore(str(tmp_path), keys).publish("k", {"f": b"1"})
    carried = pickle.dumps(artifact)
    assert b"PRIVATE KEY" not in carried
    assert pickle.loads(carried).store.get("k").read("f") == b"1"


def test_a_reader_needs_no_private_key(keys: Keys, tmp_path: Path) -> None:
    ObjectStore(str(tmp_path / "objects"), keys).publish("k", {"f": b"1"})
    reader = Keys(tmp_path / "signing.key")
    reader.public.write_bytes(keys.public.read_bytes())
    reader.public.chmod(0o644)
    assert ObjectStore(str(tmp_path / "objects"), reader).get("k").read("f") == b"1"
    with pytest.raises(SettingsError, match="there is no signing key"):
        ObjectStore(str(tmp_path / "objects"), reader).publish("other", {})


def test_a_store_without_keys_is_not_read_with_keys_and_the_other_way_round(keys: Keys, tmp_path: Path) -> None:
    bare, signed = ObjectStore(str(tmp_path)), ObjectStore(str(tmp_path), keys)
    bare.publish("bare", {})
    with pytest.raises(SignatureError, match="is not signed"):
        signed.find("bare")
    signed.publish("signed", {})
    assert signed.get("signed").key == "signed"


def test_the_key_file_is_a_setting_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings().signing_key == tmp_path / ".millrace" / "signing.key"
    named = Settings(signing_key_file=Path("own.key"))
    assert named.signing_key == tmp_path / "own.key"
    assert named.environment()["MILLRACE_SIGNING_KEY_FILE"] == str(tmp_path / "own.key")
    assert "MILLRACE_SIGNING_KEY_FILE" not in Settings().environment()
