"""Notices that vLLM's own process is gone. Knows nothing of what it was doing.

vLLM 0.32 tells whoever waits for an answer when its engine fails, but not when the system ends the
engine's process, as it does where memory runs out: then `LLM` waits for ever.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keel.errors import EngineDiedError

_EVERY_S = 1.0


@contextmanager
def living() -> Iterator[None]:
    """Say in one line that vLLM's own process has ended. Raises EngineDiedError."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise EngineDiedError(
            "vLLM's engine has died, for the reason that it printed above (none where the system "
            "ended it, as it does when memory runs out); run the same command again: what is "
            "finished is kept"
        ) from error


def watch(client: Any) -> None:
    """Wake whoever waits for `LLMEngine.engine_core` once its process is gone.

    A client without a process of its own needs no watching. Watches until the client is let go.
    """
    if not hasattr(client, "outputs_queue"):
        return
    watched = weakref.ref(client)
    threading.Thread(target=_watch, args=(watched,), name="keel-watch", daemon=True).start()


def _watch(watched: weakref.ref[Any]) -> None:
    pause = threading.Event()
    while not pause.wait(_EVERY_S):
        client = watched()
        if client is None:
            return
        if client.resources.engine_dead:
            _wake(client)
            return
        del client  # or it would not be let go while we wait


def _wake(client: Any) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    client.outputs_queue.put_nowait(EngineDeadError())
    for waiting in list(client.utility_results.values()):
        if not waiting.done():
            waiting.set_exception(EngineDeadError())
