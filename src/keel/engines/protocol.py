"""What a stage may ask of a model, and what it gets back. Knows no engine.

An engine answers prompts (`generate`), reads given conversations (`read`) and compares the
next-token distributions of a steered and an unsteered model (`divergence`). No stage knows
which engine it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from keel.steering import Firing, Intervention
from keel.types import Activations, Conversation, ModelIdentity, Prompt, Sampling


@dataclass(frozen=True)
class Probe:
    """A direction at a layer on which per-token projections are wanted."""

    layer: int
    direction: Float[Tensor, " hidden"]


@dataclass(frozen=True)
class Recording:
    """What to record while the model runs; by default nothing."""

    means: bool = False
    """Mean activation of the response's content tokens, at every layer."""
    probes: tuple[Probe, ...] = ()
    """Per-token projections, one column each."""
    log_likelihood: bool = False
    """Log-likelihood of each content token given what stands before it (`read` only)."""


@dataclass(frozen=True)
class Completion:
    """One finished answer."""

    place: int
    """Which of the prompts given, counted from 0."""
    text: str
    token_ids: tuple[int, ...]
    """Content tokens as sampled, without the end token."""
    finish: Literal["stop", "length"]
    activations: Activations | None = None
    projections_TK: Float[Tensor, "token probe"] | None = None


@dataclass(frozen=True)
class TurnRecord:
    """What was read of one assistant turn, over its content tokens."""

    turn: int
    """0-based number among the conversation's assistant turns."""
    token_ids: tuple[int, ...]
    activations: Activations | None = None
    projections_TK: Float[Tensor, "token probe"] | None = None
    log_likelihood_T: Float[Tensor, " token"] | None = None
    """Natural logarithm, one per content token."""


@dataclass(frozen=True)
class Reading:
    """What was read of one conversation, an entry per assistant turn that has content tokens."""

    place: int
    """Which of the conversations given, counted from 0."""
    turns: tuple[TurnRecord, ...]


@dataclass(frozen=True)
class Divergence:
    """Steered against unsteered next-token distributions on one conversation's assistant turns."""

    place: int
    """Which of the conversations given, counted from 0."""
    setting: int
    """Which of the settings given, counted from 0."""
    kl: float
    """Mean over content tokens of KL(unsteered ‖ steered), in nats."""
    tokens: int


@dataclass(frozen=True)
class Batch:
    """One planned batch: the unit of commitment, with its own seed."""

    number: int
    places: tuple[int, ...]
    """Which of the prompts given belong to it, in row order."""


@runtime_checkable
class Engine(Protocol):
    """A model that answers and can be read. Implementations: `transformers`, `vllm`."""

    identity: ModelIdentity
    firing: Firing | None
    """How often the last `generate` or `read` moved a token; None if it was unsteered."""

    @property
    def layers(self) -> int:
        """Number of decoder blocks."""

    @property
    def is_rolling(self) -> bool:
        """Whether `generate` takes any number of prompts and keeps as many in work as fit; else it
        is given one planned batch at a time."""

    def template_facts(self) -> dict[str, str]:
        """What the chat template does of its own accord, to be shown to people."""

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
    ) -> Iterator[Completion]:
        """Answer prompts (those of one batch, unless `is_rolling`), each completion as it finishes.
        The seed decides every draw.

        With a seed per prompt, an answer's draws are its own, whatever else is in the batch.
        `on_text` is called with (place, piece of text) as an answer grows.
        """

    def read(
        self,
        conversations: Sequence[Conversation],
        *,
        recording: Recording,
        interventions: Sequence[Intervention] = (),
    ) -> Iterator[Reading]:
        """Read given conversations in one forward pass each, in any order; nothing is sampled."""

    def divergence(
        self,
        conversations: Sequence[Conversation],
        settings: Sequence[Sequence[Intervention]],
    ) -> Iterator[Divergence]:
        """KL(unsteered ‖ steered) of next-token distributions, for each setting."""
