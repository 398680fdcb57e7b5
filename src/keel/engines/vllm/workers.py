"""Keel's side of every worker process of an engine, spoken to from outside. Knows no prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safetensors.torch import load
from torch import Tensor

from keel.engines.vllm.recorded import merged
from keel.engines.vllm.watch import living
from keel.steering import Firing


class Workers:
    """All workers of a `vllm.LLM`, asked together. Raises EngineDiedError once they are gone."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    def tell(self, method: str, *arguments: Any) -> list[Any]:
        """What each worker answers, by rank."""
        with living():
            return list(self.llm.collective_rpc("keel_call", args=(method, *arguments)))

    def ask_last(self, method: str, *keys: str) -> dict[str, Tensor]:
        """What the last pipeline stage says: it has the head."""
        return dict(load(self.tell(method, *keys)[-1]))

    def collect(self, key: str) -> dict[str, Tensor]:
        """What was recorded under a key; pipeline stages are added up."""
        ranks = self.tell("collect", [key])
        stages = self.llm.llm_engine.vllm_config.parallel_config.pipeline_parallel_size
        return merged(ranks[:: max(len(ranks) // stages, 1)])

    def discard(self, keys: list[str]) -> None:
        """Let them forget recordings that nobody will collect."""
        if keys:
            self.tell("discard", keys)

    def firing(self, name: str, layers: Sequence[int]) -> Firing:
        """How often a setting moved a token at these layers."""
        found: dict[int, tuple[int, int]] = {}
        for worker in self.tell("firing", name):
            found |= {int(n): tuple(counts) for n, counts in worker.items() if int(n) in layers}
        return Firing(
            {layer: fired for layer, (_, fired) in sorted(found.items())},
            {layer: seen for layer, (seen, _) in sorted(found.items())},
        )

    def steered_layers(self) -> set[int]:
        """Layers that some worker can steer."""
        return {layer for status in self.tell("status") for layer in status["layers"]}
