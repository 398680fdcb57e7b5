"""A small OpenAI-compatible server on this machine, that says what it was told to say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.listening import Handler, chat_completion, listening


@dataclass
class Served:
    """What the server is to say, one answer a request, and what it was asked."""

    address: str
    answers: list[str]
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    status: int = 200


@contextmanager
def serving(*answers: str, status: int = 200) -> Iterator[Served]:
    """A server at `address` for as long as the context lasts."""
    served = Served("", list(answers), status=status)
    with listening(_Handler, served=served) as served.address:
        yield served


class _Handler(Handler):
    served: Served

    def do_POST(self) -> None:
        body = self.asked()
        if self.path != "/v1/chat/completions":
            self.say(404, {"error": {"message": f"nothing at {self.path}"}})
            return
        self.served.asked.append(body)
        self.served.keys.append(self.headers["Authorization"])
        if self.served.status != 200:
            self.say(self.served.status, {"error": {"message": "no such model"}})
            return
        self.say(200, chat_completion(self.served.answers.pop(0)))
