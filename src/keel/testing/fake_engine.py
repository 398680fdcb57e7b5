"""An engine without a model, for tests: it reads and writes the planted stream of `planted`.

It keeps an engine's promises and no more: results come last first, since no order is promised.
Nothing here says how a real model would answer or drift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random

from torch import Tensor, full, ones_like, stack

from keel.engines import (
    Batch,
    Completion,
    Divergence,
    Reading,
    Recording,
    TurnRecord,
    text_before,
)
from keel.steering import Firing, Intervention
from keel.testing.planted import PlantedStream
from keel.types import Activations, AssistantAxis, Conversation, Prompt, Sampling

Reply = Callable[[Conversation, float, Random], str]
"""What is answered to a conversation, given the persona as steered and a source of chance."""


def echo(conversation: Conversation, persona: float, chance: Random) -> str:
    """The last message's words, shuffled by chance; a persona below 0.5 howls first."""
    words = conversation.messages[-1].content.split()
    chance.shuffle(words)
    return " ".join(["whooo", *words] if persona < 0.5 else words)


def scripted(*answers: str) -> Reply:
    """Gives the answers in turn, one per assistant turn, from the first again after the last."""

    def reply(conversation: Conversation, _persona: float, _chance: Random) -> str:
        given = sum(m.speaker == "assistant" for m in conversation.messages)
        return answers[given % len(answers)]

    return reply


class FakeEngine:
    """A deterministic engine in memory, fit for every stage."""

    def __init__(
        self,
        *,
        layers: int = 4,
        hidden: int = 8,
        seed: int = 0,
        noise: float = 0.1,
        personas: Mapping[str, float] | None = None,
        reply: Reply = echo,
        is_rolling: bool = False,
    ) -> None:
        planted = {} if personas is None else {"personas": personas}
        self.stream = PlantedStream(layers, hidden, seed, noise, **planted)
        self.reply = reply
        self.is_rolling = is_rolling
        self.identity = self.stream.identity
        self.firing: Firing | None = None

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.stream.layers

    @property
    def axis(self) -> AssistantAxis:
        """The planted axis, which a real engine could not know."""
        return self.stream.axis

    def template_facts(self) -> dict[str, str]:
        """Nothing: a fake engine has no template."""
        return {}

    def plan(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Batch]:
        """Batches of four, shortest prompts first."""
        lengths = [len(self.stream.words(p.conversation).ids) for p in prompts]
        order = sorted(range(len(prompts)), key=lambda place: (lengths[place], place))
        starts = range(0, len(order), 4)
        return [Batch(number, tuple(order[n : n + 4])) for number, n in enumerate(starts)]

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
        """Answers from `reply`, cut at max_new_tokens words; greedy ones ignore the seed."""
        self.firing = None
        for place in reversed(range(len(prompts))):
            conversation = prompts[place].conversation
            own = f"{seed}/{place}" if isinstance(seed, int) else str(seed[place])
            chance = Random(own if sampling.temperature else 0)
            text = self.reply(conversation, self._persona(conversation, interventions), chance)
            limit = sampling.max_new_tokens
            is_cut = len(text.split()) > limit
            text = " ".join(text.split()[:limit]) if is_cut else text
            is_stopped = any(stop in text for stop in sampling.stop)
            text = text_before(text, sampling.stop)
            if on_text is not None:
                on_text(place, text)
            record = self._turns(conversation.with_reply(text), recording, interventions)[-1]
            yield Completion(
                place,
                text,
                record.token_ids,
                "length" if is_cut and not is_stopped else "stop",
                record.activations,
                record.projections_TK,
            )

    def read(
        self,
        conversations: Sequence[Conversation],
        *,
        recording: Recording,
        interventions: Sequence[Intervention] = (),
    ) -> Iterator[Reading]:
        """Every turn that has words. Each token's log-likelihood is −1."""
        self.firing = None
        for place in reversed(range(len(conversations))):
            turns = self._turns(conversations[place], recording, interventions, is_given=True)
            yield Reading(place, tuple(turn for turn in turns if turn.token_ids))

    def divergence(
        self,
        conversations: Sequence[Conversation],
        settings: Sequence[Sequence[Intervention]],
    ) -> Iterator[Divergence]:
        """Half the squared shift at the last layer: the KL of unit Gaussians that far apart."""
        for place in reversed(range(len(conversations))):
            words = self.stream.words(conversations[place])
            plain_TD = self.stream.steered(words, ()).stream_LTD[-1]
            for number, interventions in enumerate(settings):
                moved_TD = self.stream.steered(words, interventions).stream_LTD[-1]
                shift_ND = (moved_TD - plain_TD)[words.is_generated_T]
                kl = float(shift_ND.square().sum(-1).mean()) / 2
                yield Divergence(place, number, kl, len(shift_ND))

    def _persona(self, conversation: Conversation, interventions: Sequence[Intervention]) -> float:
        """The persona with which an answer begins, as steered, give or take the noise."""
        words = self.stream.words(conversation.with_reply(".")).answering
        first_D = self.stream.steered(words, interventions).stream_LTD[-1, -1]
        return float(first_D @ self.stream.direction) / self.layers

    def _turns(
        self,
        conversation: Conversation,
        recording: Recording,
        interventions: Sequence[Intervention],
        *,
        is_given: bool = False,
    ) -> list[TurnRecord]:
        """What was recorded of each assistant turn; firings are counted.

        Of a given conversation only the assistant's words count, as they do in a real engine.
        """
        words = self.stream.words(conversation)
        words = words if is_given else words.answering
        steered = self.stream.steered(words, interventions)
        counted_T = words.is_generated_T if is_given else ones_like(words.is_generated_T)
        now = steered.firing(counted_T)
        self.firing = now if now is None or self.firing is None else self.firing + now
        return [
            _record(turn, words.ids[start:stop], steered.stream_LTD[:, start:stop], recording)
            for turn, (start, stop) in enumerate(words.turns)
        ]


def _record(
    turn: int, ids: tuple[int, ...], stream_LTD: Tensor, recording: Recording
) -> TurnRecord:
    activations = projections_TK = None
    if recording.means and ids:
        norms_L = stream_LTD.norm(dim=-1).mean(1)
        activations = Activations(stream_LTD.mean(1), norms_L, len(ids))
    if recording.probes:
        columns = [stream_LTD[probe.layer] @ probe.direction for probe in recording.probes]
        projections_TK = stack(columns, -1)
    likelihood_T = full((len(ids),), -1.0) if recording.log_likelihood else None
    return TurnRecord(turn, ids, activations, projections_TK, likelihood_T)
