"""The protocol of an engine: what a stage may call, and what it passes. Knows no engine.

An engine answers prompts (`generate`), reads given conversations (`read`) and compares the
next-token distributions of a steered and an unsteered model (`divergence`). No stage knows
which engine it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from keel.engines.chat_template import ChatTemplate
from keel.engines.results import Completion, Divergence, Reading, Results
from keel.settings import Spans
from keel.steering import Intervention, Probe
from keel.types import Conversation, ModelIdentity, Prompt, Sampling


@dataclass(frozen=True)
class Recording:
    """What to record while the model runs; by default nothing."""

    means: bool = False
    """Mean activation of the response's content tokens, at every layer."""
    probes: tuple[Probe, ...] = ()
    """Per-token projections, one column each."""
    prompt: bool = False
    """Projections of the prompt's last token, too; in a given conversation of the token that stands
    before each turn's first content token."""
    log_likelihood: bool = False
    """Log-likelihood of each content token given what stands before it (`read` only)."""
    spans: Spans = "answer"
    """Which of a turn's tokens count (`read` only): see `ChatTemplate.transcript`."""


@dataclass(frozen=True)
class Batch:
    """One planned batch: answered and stored as a whole, with its own seed."""

    number: int
    indices: tuple[int, ...]
    """Indices of its prompts among those given, in row order."""


@dataclass(frozen=True)
class Budget:
    """How many tokens and rows one batch may hold."""

    tokens: int
    """Rows × (longest prompt + new tokens)."""
    rows: int
    read_tokens: int
    """Rows × longest conversation, when reading."""


@dataclass(frozen=True)
class LocalModel:
    """A transformers model of this process, to be called directly inside `keel.steered`."""

    _model: Any
    tokenizer: Any
    blocks: str | Sequence[nn.Module] | None
    """As for `keel.steered`."""
    budget: Budget
    _break_off: Callable[[], None] = lambda: None
    """Ends a call of the engine that is open."""

    @property
    def model(self) -> Any:
        """The transformers model itself.

        To take it breaks off an unfinished call of the engine, whose interventions would act on it.
        """
        self._break_off()
        return self._model

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        device: torch.device = self._model.get_input_embeddings().weight.device
        return device


@runtime_checkable
class Engine(Protocol):
    """A model that answers and can be read. Implementations: `transformers`, `vllm`.

    One call at a time: a new `generate` or `read` breaks off an earlier one that is unfinished.
    """

    identity: ModelIdentity
    template: ChatTemplate
    """The model's chat template and, in it, its tokenizer."""

    @property
    def layers(self) -> int:
        """Number of decoder blocks."""

    @property
    def batches_continuously(self) -> bool:
        """Whether `generate` takes any number of prompts; if not, one planned batch per call."""

    @property
    def local_model(self) -> LocalModel | None:
        """The transformers model of this process, for code that calls it directly.

        None where the model runs elsewhere or in another library.
        """

    def template_facts(self) -> dict[str, str]:
        """What the chat template adds by itself (system prompt, date), in words for display."""

    def plan(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Batch]:
        """Sort prompts by length into batches that fit in memory. The same call plans the same."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        seed: int | Sequence[int],
        recording: Recording = Recording(),
        interventions: Sequence[Intervention] = (),
        on_text: Callable[[int, str], None] | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Results[Completion]:
        """Answer prompts, each completion as it finishes. The seed decides every draw.

        Takes the prompts of one planned batch, or any number where it `batches_continuously`; there
        prompts and seeds may become more while others are answered.

        With a seed per prompt, an answer's draws are its own, whatever else is in the batch.
        `on_text` is called with (index of the prompt, piece of text) as an answer grows,
        `on_step` before each forward pass: an exception that it raises ends the call.
        Raises NotAppliedError at the end if a layer of the interventions saw no token.
        """

    def read(
        self,
        conversations: Sequence[Conversation],
        *,
        recording: Recording,
        interventions: Sequence[Intervention] = (),
    ) -> Results[Reading]:
        """Read given conversations in one forward pass each, in any order; nothing is sampled.

        Raises NotAppliedError as `generate` does.
        """

    def divergence(
        self,
        conversations: Sequence[Conversation],
        settings: Sequence[Sequence[Intervention]],
    ) -> Iterator[Divergence]:
        """KL(unsteered ‖ steered) of next-token distributions, for each setting.

        Raises NotAppliedError if a layer of a setting saw no token.
        """

    def close(self) -> None:
        """Break off the call that is open and stop the processes that the engine started."""


@runtime_checkable
class KeepsPrompts(Protocol):
    """An engine that can keep what it computed of a batch's prompts.

    Prompts that go on from them are then computed from there on. vLLM does so by itself.
    """

    def keeping_prompts(self) -> AbstractContextManager[None]:
        """Inside, prompts that go on from those of the batch before are computed from there on."""

    def prime(self, prompts: Sequence[Prompt], interventions: Sequence[Intervention] = ()) -> None:
        """Compute prompts whose answers are known.

        What follows then has the bits that it had when they were answered.
        """
