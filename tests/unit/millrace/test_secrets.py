"""No planted secret passes the redaction, whatever text it stands in; a text without secrets stays as it is."""

from __future__ import annotations

import base64
import json
import string
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from millrace import secrets
from millrace.secrets import MASK, redact, redact_value, resolve, secret_fields

LETTERS = string.ascii_letters + string.digits
# No word of a template, so that finding it means that it leaked.
SECRET = st.text(LETTERS, min_size=12, max_size=40).map(lambda text: f"Zq9{text}")
ANYTHING = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=6, max_size=40).filter(
    lambda text: text.strip() == text and text != MASK
)
AROUND = st.text(max_size=40)

SHAPES: dict[str, Callable[[str], str]] = {
    "url": lambda s: f"postgresql://reader:{s}@db.example.com:5432/rows",
    "url with @ in the password": lambda s: f"postgresql://reader:p@{s}@db/rows",
    "url with / in the password": lambda s: f"amqp://reader:p/{s}@db/rows",
    "token as a user": lambda s: f"https://{s}abc@git.example.com/x.git",
    "header": lambda s: f"Authorization: Bearer {s}",
    "header in a dict": lambda s: repr({"Authorization": f"Bearer {s}", "Accept": "*/*"}),
    "header in a dict of bytes": lambda s: repr([(b"authorization", f"Token {s}".encode())]),
    "header in JSON": lambda s: json.dumps({"authorization": f"Basic {s}"}),
    "header in JSON in JSON": lambda s: json.dumps(json.dumps({"proxy-authorization": s})),
    "digest header": lambda s: f'authorization: Digest username="u", response="{s}"',
    "api key header": lambda s: f"x-api-key: {s}",
    "api key header in a tuple": lambda s: repr(("X-Api-Key", s)),
    "cookie": lambda s: f"cookie: theme=dark; session={s}; a={s}",
    "AWS": lambda s: f"aws_access_key_id=AKIAABCDEFGHIJKLMNOP aws_secret_access_key = {s}",
    "AWS from the API": lambda s: json.dumps({"Credentials": {"SecretAccessKey": s, "SessionToken": s}}),
    "libpq": lambda s: f"connection failed: host=db user=reader password={s} dbname=rows",
    "quoted": lambda s: f"connect(host='db', password='{s} {s}')",
    "quoted with a quotation mark": lambda s: f'"password": "pa\\"{s}"',
    "cut": lambda s: f"{{'api_key': '{s}",
    "escaped": lambda s: repr(f"connect(password='{s}', user=\"u\")"),
    "environment": lambda s: f"WAREHOUSE_PASSWORD={s}\nHOME=/root",
    "camel case": lambda s: f'{{"clientSecret":"{s}","apiKey":"{s}"}}',
    "query": lambda s: f"https://x.example.com/a?b=1&access_token={s}&c=2",
    "signed URL": lambda s: f"https://b.s3.amazonaws.com/k?X-Amz-Signature={s}&sig={s}",
    "option": lambda s: f"tool --password {s} --db-token={s}",
    "SQL": lambda s: f"ALTER USER reader IDENTIFIED BY '{s}'",
    "bearer": lambda s: f"sent Bearer {s}",
    "private key": lambda s: f"-----BEGIN RSA PRIVATE KEY-----\n{s}\n{s}\n-----END RSA PRIVATE KEY-----",
    "private key in a repr": lambda s: repr(f"-----BEGIN PRIVATE KEY-----\n{s}\n-----END PRIVATE KEY-----"),
    "private key, cut": lambda s: f"-----BEGIN OPENSSH PRIVATE KEY-----\n{s}",
    "JWT": lambda s: f"eyJhbGciOiJIUzI1NiJ9.eyJ{s}.{s}",
    "GitHub": lambda s: f"ghp_{s}{s}",
    "Azure": lambda s: f"AccountName=a;AccountKey={s}==;EndpointSuffix=core.windows.net",
}
INNOCENT = [
    "token 5", "got: 'token 17', allowed: 18 or later", "token=5", "{'token': 17}", "max_tokens=512", "tokens: many",
    "the secret of a good model is its data", "next: check the password", "Password is wrong; try again",
    "bearer instruments", "Basic authentication is off", "http://127.0.0.1:4200/api", "s3://bucket/prefix/key",
    "ssh://git@github.com/x", "http://h:8080/a/b@c", "sqlite:////work/ledger.db", "key: staged/tiny/sets/ab12",
    "RAY_AUTH_TOKEN_PATH=/state/ray/token", "api_key_file: /etc/key", "password=None", f"password={MASK}",
    "keyboard=3", "tokenizer=bert", "postgresql://reader@db/rows", "authority: x", "primary_key=id", "a@b.example.com",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    secrets.forget_all()
    yield
    secrets.forget_all()


@pytest.mark.parametrize("shape", SHAPES)
@given(secret=SECRET, before=AROUND, after=AROUND)
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_secret_of_a_known_shape_never_passes(shape: str, secret: str, before: str, after: str) -> None:
    text = f"{before}\n{SHAPES[shape](secret)}\n{after}"
    without = redact(text)
    assert secret not in without
    assert redact(without) == without, "redacting twice changes nothing more"


@given(secret=ANYTHING, before=AROUND, after=AROUND)
@hypothesis_settings(max_examples=150, deadline=None)
def test_a_known_value_never_passes_in_any_of_its_forms(secret: str, before: str, after: str) -> None:
    secrets.forget_all()
    secrets.remember(secret)
    raw = secret.encode()
    forms = [secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe=""), raw.hex()]
    forms.append(base64.b64encode(raw).decode())
    for form in forms:
        without = redact(f"{before} {form} {after}")
        assert form not in without.replace(MASK, "\0") or form in f"{before}  {after}"
        assert redact(without) == without


@pytest.mark.parametrize("text", INNOCENT)
def test_a_text_without_secrets_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text(string.ascii_lowercase.replace("k", "") + " .,;()[]{}0123456789\n", max_size=300))
@hypothesis_settings(max_examples=100, deadline=None)
def test_words_and_numbers_stay(text: str) -> None:
    assert redact(text) == text


@given(st.text(max_size=200), SECRET)
@hypothesis_settings(max_examples=200, deadline=None)
def test_any_text_may_be_redacted_twice(text: str, secret: str) -> None:
    for mixed in (text, f"password={text}{secret}", f"://{text}:{secret}@", f"authorization: {text} {secret}"):
        assert redact(redact(mixed)) == redact(mixed)


def test_what_is_left_still_tells_what_it_was() -> None:
    assert redact("postgresql://reader:hush@db/rows?sslmode=off") == "postgresql://***@db/rows?sslmode=off"
    assert redact("host=db password=hush port=5") == "host=db password=*** port=5"
    assert redact('{"api_key": "hush", "rows": 5}') == '{"api_key": "***", "rows": 5}'
    assert redact("{'Authorization': 'Bearer hush'}") == "{'Authorization': '***'}"


def test_the_names_in_a_mapping_count() -> None:
    value = {
        "password": "hush",
        "token": 17,
        "rows": [("x", "pwd=hush")],
        "key_file": "/a",
        "deep": {"api_key": "hush"},
    }
    assert redact_value(value) == {
        "password": MASK,
        "token": 17,
        "rows": [("x", f"pwd={MASK}")],
        "key_file": "/a",
        "deep": {"api_key": MASK},
    }


def test_secret_variables_of_the_environment_are_known() -> None:
    secrets.remember_environment(
        {"WAREHOUSE_PASSWORD": "correct horse", "TOKEN_PATH": "/tmp/token", "DB": "a://u:battery@h"}
    )
    secrets.remember_environment(
        {"PWD": "/work/folder", "OLDPWD": "/work/before", "PREFECT_API_AUTH_STRING": "u:staple1"}
    )
    assert redact("correct horse or battery in /tmp/token") == "*** or *** in /tmp/token"
    assert redact("/work/folder /work/before") == "/work/folder /work/before"
    assert redact("not staple1") == "not ***"


def test_short_values_are_not_looked_for() -> None:
    secrets.remember("yes")
    assert redact("yes, it does") == "yes, it does"


def test_a_large_text_takes_no_time() -> None:
    import time

    for text in ("data:image/svg+xml;base64," + "QUJD" * 100_000, "password" * 20_000, "://" * 50_000, "a:b@" * 50_000):
        started = time.process_time()
        redact(text)
        assert time.process_time() - started < 2.0


REFERENCED: list[tuple[Any, list[str]]] = [
    ({"url": "postgresql://reader:hush@db/x"}, ["o.url"]),
    ({"url": "postgresql://reader:${ENV:DB_PASSWORD}@db/x"}, []),
    ({"password": "hush"}, ["o.password"]),
    ({"password": "${ENV:DB_PASSWORD}"}, []),
    ({"password": 5, "token_path": "/x", "max_tokens": 5, "password_column": ""}, []),
    ({"headers": [{"Authorization": "Bearer abcdefghijklmnop"}]}, ["o.headers[0].Authorization"]),
    ({"lines": ["a", "AKIAABCDEFGHIJKLMNOP"]}, ["o.lines[1]"]),
    ({"path": "data/table.csv", "kind": "binary", "note": "the password is elsewhere"}, []),
]


@pytest.mark.parametrize(("options", "found"), REFERENCED)
def test_where_options_hold_a_secret(options: Any, found: list[str]) -> None:
    assert secret_fields(options, "o") == found


def test_a_reference_is_read_from_the_environment_and_known_from_then_on() -> None:
    options = {"url": "postgresql://reader:${ENV:PW}@db/x", "more": ["${ENV:PW}", 5]}
    assert resolve(options, {"PW": "battery"}) == {"url": "postgresql://reader:battery@db/x", "more": ["battery", 5]}
    assert redact("battery") == MASK
    with pytest.raises(KeyError, match="PW"):
        resolve(options, {})
