"""A real server on this machine with OpenAI's chat route; it knows settings, or takes no notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from tests.listening import Handler, chat_completion, listening


def _repeated(asked: str) -> str:
    return f"you said {asked}"


@dataclass
class Served:
    """A server, and what it was asked."""

    settings: set[str] | None = None
    """Names that it knows; None takes no notice of them."""
    refusals: int = 0
    """How many requests it puts off with 429 before it answers."""
    says: Callable[[str], str] = _repeated
    """Its answer to the last message."""
    address: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    lock: Any = field(default_factory=Lock)

    def status_for(self, body: dict[str, Any]) -> int:
        with self.lock:
            self.asked.append(body)
            if self.refusals > 0:
                self.refusals -= 1
                return 429
        setting = body.get("vllm_xargs", {}).get("keel")
        is_unknown = self.settings is not None and setting not in {None, "none", *self.settings}
        return 400 if is_unknown else 200


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    with listening(_Handler, served=served) as served.address:
        yield served


class _Handler(Handler):
    served: Served

    def do_POST(self) -> None:
        body = self.asked()
        status = self.served.status_for(body)
        if status != 200:
            self.say(status, {"error": {"message": "not now, or not this"}})
            return
        text = self.served.says(body["messages"][-1]["content"])
        self.say(200, chat_completion(text, finish="length", usage=(1, 4)))
