"""A pipeline whose code meets secrets as real code does: options, drivers' errors, prints, logs of other libraries."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

NAME = "leaky"

#: What secrets stand in when a library tells of its trouble.
SHAPES: tuple[Callable[[str], str], ...] = (
    lambda s: f'connection to server at "db", port 5432 failed: postgresql://reader:{s}@db.example.com:5432/rows',
    lambda s: f"ClientConnectorError: mongodb+srv://reader:p@{s}@a.example.com,b.example.com/rows?tls=true",
    lambda s: (
        f"HTTPError: 401 for GET https://api.example.com/rows, sent {{'Authorization': 'Bearer {s}', 'Accept': '*/*'}}"
    ),
    lambda s: f"h11 headers=[(b'host', b'api.example.com'), (b'authorization', b'Token {s}')]",
    lambda s: f"> x-api-key: {s}\n> accept: */*",
    lambda s: f"InvalidSignature: aws_access_key_id=AKIAABCDEFGHIJKLMNOP, aws_secret_access_key={s}",
    lambda s: json.dumps({"Credentials": {"AccessKeyId": "ASIAABCDEFGHIJKLMNOP", "SecretAccessKey": s}}),
    lambda s: f"DatabaseError: ORA-01017: host=db user=reader password={s} dbname=rows",
    lambda s: f"connect(host='db', user='reader', password='{s} with a space', port=5432)",
    lambda s: f"403 for https://bucket.s3.amazonaws.com/rows?X-Amz-Credential=a&X-Amz-Signature={s}",
    lambda s: f"cannot read key -----BEGIN RSA PRIVATE KEY-----\n{s}\n{s}\n-----END RSA PRIVATE KEY-----",
    lambda s: f"token rejected: eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0{s}.{s}",
    lambda s: json.dumps(json.dumps({"client_secret": s, "grant_type": "client_credentials"})),
    lambda s: f"Set-Cookie: session={s}; HttpOnly; Path=/",
    lambda s: f"AccountName=rows;AccountKey={s}==;EndpointSuffix=core.windows.net is not valid",
    lambda s: f"remote: https://{s}@git.example.com/rows.git not found",
    lambda s: f"ProgrammingError: ALTER USER reader IDENTIFIED BY '{s}'",
    lambda s: f"usage: load --db-password {s} --api-key={s}",
)

_SOURCE = '''
"""Reads what it shall do, and with which secrets, from a file that is their home."""
import json, logging, sys, warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

ORDERS = Path({orders!r})
START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)


def orders(place):
    return json.loads(ORDERS.read_text()).get(place, {{}})


def tell(texts):
    """As libraries do: to any logger, to the streams, as warnings."""
    ways = [logging.getLogger("driver").warning, print, lambda text: print(text, file=sys.stderr), warnings.warn]
    for number, text in enumerate(texts):
        ways[number % 4](text)


def fail(texts, kind):
    half = len(texts) // 2
    first, second = "\\n".join(texts[:half]), "\\n".join(texts[half:])
    try:
        raise ConnectionError(first)
    except ConnectionError as error:
        if kind == "sqlalchemy":
            from sqlalchemy.exc import OperationalError
            raise OperationalError("SELECT 1", {{"note": second}}, error) from error
        if kind == "httpx":
            import httpx
            request = httpx.Request("GET", "https://api.example.com/rows")
            response = httpx.Response(401, request=request)
            raise httpx.HTTPStatusError(second, request=request, response=response) from error
        if kind == "group":
            raise ExceptionGroup("both failed", [error, ValueError(second)]) from error
        raise RuntimeError(second)


def meet(place):
    found = orders(place)
    tell(found.get("tell", []))
    if found.get("fail"):
        fail(found["fail"], found["kind"])


meet("import")


class Rows:
    def __init__(self, url, keys):
        self.url, self.keys = url, keys

    def extent(self):
        meet("extent")
        if orders("extent").get("options"):
            # Known values without a shape that anybody could recognise.
            raise OSError("no luck with " + " ".join(self.keys) + " " + self.url.split(":")[2])
        return START, END

    def fingerprint(self):
        return "1"

    def rows(self, start, end, as_of):
        meet("rows")
        hours = pd.date_range(START, END, freq="2h", inclusive="left")
        number = np.arange(len(hours))
        x = ((number * 37) % 100) / 100.0
        table = pd.DataFrame({{"at": hours, "id": number, "x": x, "y": (x > 0.5).astype(float)}})
        return table[(hours >= start) & (hours < end)]
'''

_MODEL = """
import torch


class Tiny(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.layer = torch.nn.Linear(len(inputs.numeric), inputs.outputs)

    def forward(self, batch):
        return self.layer(batch["numeric"])


def build(inputs, options):
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location("leaky_source", Path(__file__).parent / "source.py")
    source = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    source.meet("build")
    return Tiny(inputs)
"""


def write_pipeline(pipelines: Path, orders: Path, url_variable: str, key_variables: Sequence[str]) -> None:
    """Write the pipeline's folder. Its secrets are references; `orders` is where `give_orders` writes."""
    spec = {
        "name": NAME,
        "data": {
            "source": "source:Rows",
            "source_options": {
                "url": f"postgresql://reader:${{ENV:{url_variable}}}@db.example.com/rows",
                "keys": [f"${{ENV:{name}}}" for name in key_variables],
            },
            "event_time": "at",
            "row_id": "id",
            "features": {"x": {"kind": "numeric", "min": 0.0, "max": 1.0}},
            "label": {"column": "y", "kind": "binary"},
            "partition": "month",
        },
        "training": {"epochs": 1, "validation_days": 5.0, "max_failures": 0},
        "evaluation": {"metric": "roc_auc", "window_days": 10.0},
    }
    folder = pipelines / NAME
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(spec))
    (folder / "source.py").write_text(_SOURCE.format(orders=str(orders)))
    (folder / "model.py").write_text(_MODEL)
    give_orders(orders, {})


def give_orders(orders: Path, what: dict[str, dict[str, object]]) -> None:
    """What the pipeline's code does where: {"rows": {"tell": texts, "fail": texts, "kind": …}, …}."""
    orders.write_text(json.dumps(what))


def told(secrets: Sequence[str]) -> list[str]:
    """A text for each secret, its shape after its place."""
    return [SHAPES[number % len(SHAPES)](secret) for number, secret in enumerate(secrets)]
