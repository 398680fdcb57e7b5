"""An endpoint that knows settings as Keel's server does, or takes no notice of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from tests.endpoint.server import Answer, Asked, refuse, say
from tests.endpoint.server import serving as answering


@dataclass
class Served:
    """A server, and what it was asked."""

    settings: set[str] | None = None
    """Names that it knows; None takes no notice of them."""
    refusals: int = 0
    """How many requests it puts off with 429 before it answers."""
    says: Callable[[str], str] = "you said {}".format
    """Its answer to the last message."""
    address: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    lock: Any = field(default_factory=Lock)

    def answer(self, _number: int, asked: Asked) -> Answer:
        """A reply of four tokens, cut off, or a refusal."""
        with self.lock:
            self.asked.append(asked.body)
            if self.refusals > 0:
                self.refusals -= 1
                return refuse(429, "not now")
        setting = asked.body.get("vllm_xargs", {}).get("keel")
        if self.settings is not None and setting not in {None, "none", *self.settings}:
            return refuse(400, "no such setting")
        text = self.says(asked.body["messages"][-1]["content"])
        return say(text, finish="length", usage=(1, 4))


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    """The server at `served.address` for as long as the context lasts."""
    with answering(served.answer) as server:
        served.address = server.address
        yield served
