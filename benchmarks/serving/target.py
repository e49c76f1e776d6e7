"""Whom a load asks: an address, a dialect, and the fixture that says what is asked and what is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

import httpx

from benchmarks.serving.dialects import Dialect, Row, Template
from benchmarks.serving.fixture import Fixture

TOLERANCE = 1e-5
_SECONDS = 30.0


class WrongAnswerError(Exception):
    """A server answers something else than the model: its speed means nothing."""


@dataclass(frozen=True)
class Target:
    """An endpoint that answers for the fixture's model."""

    host: str
    port: int
    path: str
    dialect: Dialect
    fixture: Fixture
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Rows in each request of a load.
    num_rows: int = 1

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}{self.path}"

    @property
    def template(self) -> Template:
        return self.dialect.template(self.fixture.shape, *islice(cycle(self.fixture.rows), self.num_rows))

    @property
    def head(self) -> bytes:
        """A request's bytes before its body; all bodies of the template are of one size."""
        lines = {
            "host": f"{self.host}:{self.port}",
            "content-type": "application/json",
            "accept": "application/json",
            **self.headers,
            "content-length": str(self.template.size),
        }
        fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"POST {self.path} HTTP/1.1\r\n{fields}\r\n".encode()

    def ask(self, rows: Sequence[Row]) -> list[float]:
        """The probabilities of `rows`.

        Raises:
            httpx.HTTPError: there is no answer, or it is an error.
            ValueError, LookupError, TypeError: the answer is of another kind.
        """
        body = self.dialect.body(self.fixture.shape, rows)
        headers = {"content-type": "application/json", **self.headers}
        # A proxy that the environment names has nothing to do with loopback.
        with httpx.Client(trust_env=False, timeout=_SECONDS) as client:
            answer = client.post(self.url, content=body, headers=headers)
        answer.raise_for_status()
        return self.dialect.decode(answer.json())

    def answers(self) -> bool:
        """Whether it answers at all."""
        try:
            self.ask(self.fixture.rows[:1])
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            return False
        return True

    def check(self) -> None:
        """Ask all rows, one by one and together.

        Raises:
            WrongAnswerError: an answer differs from the model's by more than `TOLERANCE`.
        """
        rows, right = self.fixture.rows, self.fixture.answers
        found = [*(self.ask([row]) for row in rows), self.ask(rows)]
        wanted = [*([answer] for answer in right), right]
        for got, expected in zip(found, wanted, strict=True):
            if len(got) != len(expected) or any(
                not abs(one - other) <= TOLERANCE for one, other in zip(got, expected, strict=True)
            ):
                raise WrongAnswerError(f"{self.url} answers {got}, the model {expected}")
