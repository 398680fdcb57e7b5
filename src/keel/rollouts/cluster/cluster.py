"""Opens engines on the machines of a Ray cluster and answers a run's prompts with all of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.engines import Batch
from keel.rollouts.answer import PromptBatch, RolloutBatch
from keel.rollouts.cluster.actor import AnswerTask, EngineFacts, EngineSpec
from keel.rollouts.cluster.allocation import EngineAllocation, Machine, allocate_engines
from keel.rollouts.cluster.connection import connected
from keel.rollouts.cluster.pool import ActorPool, EngineCall, OnEngines
from keel.settings import ClusterSettings, Spans
from keel.types import ModelIdentity, Prompt, Rollout, Sampling


class Cluster:
    """Engines on many machines, which answer a run's prompts as one engine in one process would.

    The engine that was opened first plans the batches: give all machines about the same memory.
    """

    def __init__(self, pool: ActorPool, model: str) -> None:
        self._pool = pool
        self._tasks = itertools.count()
        ((_, facts),) = pool.run([EngineCall("the engine's facts", "open")])
        self._facts: EngineFacts = facts
        self.identity: ModelIdentity = replace(facts.identity, model_id=model)

    @property
    def layers(self) -> int:
        """Number of decoder blocks."""
        return self._facts.layers

    @property
    def lost(self) -> int:
        """Number of times that a batch was lost with its engine and answered again."""
        return sum(call.method == "answer" for call in self._pool.lost)

    def template_facts(self) -> dict[str, str]:
        """What the chat template adds by itself (system prompt, date), in words for display."""
        return self._facts.template

    def plan(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Batch]:
        """Sort prompts by length into batches that fit in memory."""
        ((_, batches),) = self._pool.run([EngineCall("the plan", "plan", (prompts, sampling))])
        return list(batches)

    def answer(
        self,
        prompts: Sequence[Prompt],
        batches: Sequence[Batch],
        sampling: Sampling,
        *,
        seed: int,
        spans: Spans = "answer",
        done: Collection[int] = (),
        on_rollout: Callable[[Rollout], None] = lambda rollout: None,
    ) -> Iterator[RolloutBatch]:
        """Answer the batches not in `done` as `answer_prompts` does, each as it finishes."""
        calls = [
            EngineCall(
                f"batch {batch.number}",
                "answer",
                (PromptBatch(batch.number, tuple(prompts[index] for index in batch.indices)),),
            )
            for batch in batches
            if batch.number not in done
        ]
        task = AnswerTask(next(self._tasks), sampling, seed, spans)
        for answered in self._pool.roll(calls, task):
            for rollout in answered.rollouts:
                on_rollout(rollout)
            yield answered


@contextmanager
def open_cluster(
    model: str,
    engine: str = "transformers",
    *,
    where: ClusterSettings = ClusterSettings(),
    on_engines: OnEngines = lambda opened, actors: None,
    **settings: Any,
) -> Iterator[Cluster]:
    """Open engines on a Ray cluster as `open_engine` would; they are closed with the context.

    Returns when the first engine is open. Raises MissingExtraError without Ray, ClusterError when
    no cluster answers, UsageError when no machine has room, and what `open_engine` raises.
    """
    with connected(where.address) as ray:
        gpus = 0 if settings.get("device") == "cpu" else where.gpus
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        machines = [Machine(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in resources]
        allocation = allocate_engines(machines, actors=where.actors, gpus=gpus)
        # A folder by its whole path: actors run in another folder.
        everywhere = str(Path(model).resolve()) if Path(model).is_dir() else model
        threads = os.environ.get("OMP_NUM_THREADS", "")
        spec = EngineSpec(
            everywhere,
            engine,
            _spread(engine, settings, allocation),
            int(threads) if threads.isdigit() and int(threads) else allocation.cpus,
        )
        pool = ActorPool(ray, spec, allocation, on_engines)
        try:
            yield Cluster(pool, model)
        finally:
            pool.close()


def _spread(engine: str, settings: dict[str, Any], allocation: EngineAllocation) -> dict[str, Any]:
    """The engine's settings for a model that is spread over several GPUs."""
    if allocation.gpus < 2:
        return settings
    if engine == "vllm":
        return {"tensor_parallel_size": allocation.gpus, **settings}
    device = settings.get("device", "auto")
    return {**settings, "device": "map" if device == "auto" else device}
