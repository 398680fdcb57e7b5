"""Engines on the machines of a Ray cluster, and the one that speaks for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.engines import Batch
from keel.rollouts.answer import AnsweredBatch
from keel.rollouts.cluster.actor import EngineFacts, EngineSpec
from keel.rollouts.cluster.connection import connected
from keel.rollouts.cluster.crew import Crew, Job, OnEngines
from keel.rollouts.cluster.share import Machine, Share, share_out
from keel.settings import ClusterSettings
from keel.types import ModelIdentity, Prompt, Rollout, Sampling


class Cluster:
    """Engines on many machines, which answer a run's prompts as one engine in one process would.

    Plans as the engine does that was opened first: give the machines about the same memory.
    """

    def __init__(self, crew: Crew, model: str) -> None:
        self._crew = crew
        ((_, facts),) = crew.do([Job("the engine's facts", "open")])
        self._facts: EngineFacts = facts
        self.identity: ModelIdentity = replace(facts.identity, model_id=model)

    @property
    def layers(self) -> int:
        """Number of decoder blocks."""
        return self._facts.layers

    @property
    def lost(self) -> int:
        """Batches that were lost with their engine and answered again, once for each time."""
        return sum(job.method == "answer" for job in self._crew.lost)

    def template_facts(self) -> dict[str, str]:
        """What the chat template does of its own accord, to be shown to people."""
        return self._facts.template

    def plan(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Batch]:
        """Sort prompts by length into batches that fit in memory."""
        ((_, batches),) = self._crew.do([Job("the plan", "plan", (prompts, sampling))])
        return list(batches)

    def answer(
        self,
        prompts: Sequence[Prompt],
        batches: Sequence[Batch],
        sampling: Sampling,
        *,
        seed: int,
        done: Collection[int] = (),
        on_rollout: Callable[[Rollout], None] = lambda rollout: None,
    ) -> Iterator[AnsweredBatch]:
        """Batches as they finish, in any order, without those done before; as `answer_prompts`."""
        jobs = [
            Job(
                f"batch {batch.number}",
                "answer",
                (batch.number, [prompts[place] for place in batch.indices], sampling, seed),
            )
            for batch in batches
            if batch.number not in done
        ]
        for _, answered in self._crew.do(jobs):
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
    """Engines on a Ray cluster, opened as `open_engine` would, and closed with the context.

    Waits for the first of them. Raises MissingExtraError without Ray, ClusterError when no
    cluster answers, UsageError when no machine has room, and what `open_engine` raises.
    """
    with connected(where.address) as ray:
        gpus = 0 if settings.get("device") == "cpu" else where.gpus
        share = share_out(_machines(ray), actors=where.actors, gpus=gpus)
        spread = _spread(engine, settings, share)
        spec = EngineSpec(_everywhere(model), engine, spread, _threads(share))
        crew = Crew(ray, spec, share, on_engines)
        try:
            yield Cluster(crew, model)
        finally:
            crew.close()


def _machines(ray: Any) -> list[Machine]:
    has = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Machine(int(one.get("CPU", 0)), int(one.get("GPU", 0))) for one in has]


def _everywhere(model: str) -> str:
    """A folder by its whole path: actors stand in another."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _spread(engine: str, settings: dict[str, Any], share: Share) -> dict[str, Any]:
    """The engine's settings for a model that is spread over several GPUs."""
    if share.gpus < 2:
        return settings
    if engine == "vllm":
        return {"tensor_parallel_size": share.gpus, **settings}
    device = settings.get("device", "auto")
    return {**settings, "device": "map" if device == "auto" else device}


def _threads(share: Share) -> int:
    """As many as the engine has cores, or as this process was told to have."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() and int(told) else share.cpus
