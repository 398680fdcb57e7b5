"""A residual stream without a model, with a known axis planted in it.

A token is a word between spaces. Its activation at layer l is

    persona · (l + 1) · direction + noise(token, layer, position)

where `persona` is 1 for the default and the value of the persona word that the system or the
user used last, e.g. 0 after 'ghost'. So a turn's true projection is `persona · (l + 1)`.
Knows nothing of engines.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from keel.geometry import shift, unit
from keel.steering import Firing, Intervention, in_order
from keel.types import AssistantAxis, Conversation, ModelIdentity


@dataclass(frozen=True)
class Words:
    """A conversation as tokens."""

    ids: tuple[int, ...]
    persona_T: Float[Tensor, " token"]
    is_generated_T: Bool[Tensor, " token"]
    """True on the assistant's words."""
    turns: tuple[tuple[int, int], ...]
    """Start and stop of each assistant turn."""

    @property
    def answering(self) -> Words:
        """These words while the last turn is being generated: turns before it are prompt."""
        start, stop = self.turns[-1]
        position_T = torch.arange(len(self.ids))
        return replace(self, is_generated_T=(position_T >= start) & (position_T < stop))


@dataclass(frozen=True)
class Steered:
    """A residual stream after interventions."""

    stream_LTD: Float[Tensor, "layer token hidden"]
    fired: dict[int, Bool[Tensor, " token"]]
    """Layer with interventions -> which tokens a floor or ceiling moved."""

    def firing(self, counted_T: Bool[Tensor, " token"]) -> Firing | None:
        """Firings among the tokens that count; None where nothing intervened."""
        if not self.fired:
            return None
        fired = {layer: int((moved_T & counted_T).sum()) for layer, moved_T in self.fired.items()}
        return Firing(fired, dict.fromkeys(fired, int(counted_T.sum())))


@dataclass(frozen=True)
class PlantedStream:
    """Turns conversations into activations with a planted axis; the same seed plants the same."""

    layers: int = 4
    hidden: int = 8
    seed: int = 0
    noise: float = 0.1
    """Standard deviation of each coordinate's noise; 0 makes every projection exact."""
    personas: Mapping[str, float] = field(default_factory=lambda: {"ghost": 0.0})
    """Word -> persona from where it is said."""

    @cached_property
    def direction(self) -> Float[Tensor, " hidden"]:
        """The planted unit vector, the same at every layer."""
        return unit(torch.randn(self.hidden, generator=torch.Generator().manual_seed(self.seed)))

    @property
    def axis(self) -> AssistantAxis:
        """The planted axis, recommended at the middle layer; persona 0 is 0 gaps, 1 is 1."""
        scale_L = self._scale_L
        return AssistantAxis(
            vector=scale_L[:, None] * self.direction,
            layer=self.layers // 2,
            default_projection=scale_L,
            role_projection=torch.zeros_like(scale_L),
            residual_norm=scale_L,
            identity=self.identity,
        )

    @property
    def identity(self) -> ModelIdentity:
        """An identity that names it a fake, with its seed."""
        return ModelIdentity(f"fake-{self.seed}", self.layers, self.hidden)

    def words(self, conversation: Conversation) -> Words:
        """The conversation as tokens, each with its persona."""
        ids: list[int] = []
        personas: list[float] = []
        turns: list[tuple[int, int]] = []
        persona = 1.0
        for message in conversation.messages:
            start = len(ids)
            spoken = [zlib.crc32(word.encode()) for word in message.content.split()]
            ids += spoken if message.token_ids is None else message.token_ids
            if message.speaker == "assistant":
                turns.append((start, len(ids)))
            else:
                persona = self._last_named(message.content, persona)
            personas += [persona] * (len(ids) - start)
        is_generated_T = torch.zeros(len(ids), dtype=torch.bool)
        for start, stop in turns:
            is_generated_T[start:stop] = True
        return Words(tuple(ids), torch.tensor(personas), is_generated_T, tuple(turns))

    def steered(self, words: Words, interventions: Sequence[Intervention]) -> Steered:
        """The stream under interventions: a shift at one layer stays in all later layers."""
        stream_LTD = self._plain(words)
        fired: dict[int, Tensor] = {}
        for each in in_order(interventions):
            acts_T = _acting(each, words.is_generated_T)
            amount_T = shift(stream_LTD[each.layer] @ each.direction, *each.numbers) * acts_T
            stream_LTD[each.layer :] += amount_T[:, None] * each.direction
            moved_T = (amount_T != 0) & each.is_bound
            fired[each.layer] = fired.get(each.layer, torch.zeros_like(moved_T)) | moved_T
        return Steered(stream_LTD, fired)

    @property
    def _scale_L(self) -> Tensor:
        return torch.arange(1.0, self.layers + 1)

    def _last_named(self, text: str, persona: float) -> float:
        """The position of the persona that the text names last, or the one there was."""
        named = [(text.rfind(word), value) for word, value in self.personas.items() if word in text]
        return max(named)[1] if named else persona

    def _plain(self, words: Words) -> Tensor:
        planted_LTD = self._scale_L[:, None, None] * words.persona_T[:, None] * self.direction
        noise_LTD = torch.zeros_like(planted_LTD)
        for position, token in enumerate(words.ids):
            key = zlib.crc32(f"{self.seed}/{token}/{position}".encode())
            draws = torch.Generator().manual_seed(key)
            noise_LTD[:, position] = torch.randn(self.layers, self.hidden, generator=draws)
        return planted_LTD + self.noise * noise_LTD


def _acting(intervention: Intervention, is_generated_T: Tensor) -> Tensor:
    """Which tokens the intervention's mask lets it act on."""
    if intervention.tokens == "all":
        return torch.ones_like(is_generated_T)
    return is_generated_T if intervention.tokens == "generated" else ~is_generated_T
