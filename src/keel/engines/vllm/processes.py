"""vLLM's own processes, seen from ours: calls to all workers, and notice of a process's end.

Knows no prompts. vLLM 0.32 reports an engine that fails, but not one whose process the system ends,
as it does where memory runs out: then `LLM` would wait for ever.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from safetensors.torch import load
from torch import Tensor

from keel.engines.vllm.handover import SumsFolder, unpacked_sums
from keel.errors import EngineDiedError
from keel.steering import Firing

_EVERY_S = 1.0


class Workers:
    """All workers of a `vllm.LLM`, called together. Raises EngineDiedError once they are gone."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self.sums = SumsFolder()

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """What a method of `WorkerState` returns in each worker, by rank."""
        with reporting_death():
            return list(self.llm.collective_rpc("keel_call", args=(method, *arguments)))

    def call_last_stage(self, method: str, *keys: str) -> dict[str, Tensor]:
        """The tensors that a method returns in the last pipeline stage, which has the head."""
        return dict(load(self.call(method, *keys)[-1]))

    def collect(self, keys: list[str]) -> dict[str, Tensor]:
        """What was recorded under these keys, with pipeline stages added up.

        The sums are good until the next ones are collected.
        """
        if not keys:
            return {}
        ranks = self.call("collect", keys, self.sums.path)
        stages = self.llm.llm_engine.vllm_config.parallel_config.pipeline_parallel_size
        each = ranks[:: max(len(ranks) // stages, 1)]
        return merged(unpacked_sums(message, self.sums) for message in each)

    def discard(self, keys: list[str]) -> None:
        """Forget recordings that will not be collected."""
        if keys:
            self.call("discard", keys)

    def firing(self, name: str, layers: Sequence[int]) -> Firing:
        """How often a setting moved a token at these layers."""
        counts: dict[int, tuple[int, int]] = {}
        for worker in self.call("firing", name):
            counts |= {int(n): tuple(pair) for n, pair in worker.items() if int(n) in layers}
        return Firing(
            {layer: fired for layer, (_, fired) in sorted(counts.items())},
            {layer: seen for layer, (seen, _) in sorted(counts.items())},
        )

    def steered_layers(self) -> set[int]:
        """Layers that some worker can steer."""
        return {layer for status in self.call("status") for layer in status["layers"]}


def merged(stages: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What all pipeline stages recorded: each knows its own layers, the others' sums are zero."""
    total: dict[str, Tensor] = {}
    for recorded in stages:
        for name, tensor in recorded.items():
            if name not in total or name.endswith("/tokens"):
                total[name] = tensor
                continue
            # A stage sends no layers above its own.
            shorter, longer = sorted((total[name], tensor), key=len)
            total[name] = longer.clone()
            total[name][: len(shorter)] += shorter
    return total


@contextmanager
def reporting_death() -> Iterator[None]:
    """Turns vLLM's error for a dead engine process into one line. Raises EngineDiedError."""
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
    """Make calls that wait for `LLMEngine.engine_core` fail once its process is gone.

    A client without a process of its own needs no watching. Watches until the client is let go.
    """
    if not hasattr(client, "outputs_queue"):
        return
    watched = weakref.ref(client)
    threading.Thread(target=_watch, args=(watched,), name="keel-watch", daemon=True).start()


def _watch(watched: weakref.ref[Any]) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    pause = threading.Event()
    while not pause.wait(_EVERY_S):
        client = watched()
        if client is None:
            return
        if client.resources.engine_dead:
            client.outputs_queue.put_nowait(EngineDeadError())
            for waiting in list(client.utility_results.values()):
                if not waiting.done():
                    waiting.set_exception(EngineDeadError())
            return
        del client  # or it would not be let go while we wait
