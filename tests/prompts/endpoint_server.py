"""An endpoint that gives the answers it was given, one a request, or refuses with a status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.endpoint.server import Answer, Asked, refuse, say
from tests.endpoint.server import serving as answering


@dataclass
class Served:
    """What the server is to say, and what it was asked."""

    answers: list[str]
    status: int
    address: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def answer(self, _number: int, asked: Asked) -> Answer:
        """The next answer, or the refusal."""
        self.asked.append(asked.body)
        self.keys.append(asked.key)
        return say(self.answers.pop(0)) if self.status == 200 else refuse(self.status, "no such")


@contextmanager
def serving(*answers: str, status: int = 200) -> Iterator[Served]:
    """A server at `address` for as long as the context lasts."""
    served = Served(list(answers), status)
    with answering(served.answer) as server:
        served.address = server.address
        yield served
