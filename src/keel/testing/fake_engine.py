"""An engine without a model, for tests: it reads and writes the planted stream of `planted`.

It keeps the protocol's promises and no more: results come in reverse order, since none is promised.
Nothing here says how a real model would answer or drift.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from functools import cached_property
from random import Random

from torch import Tensor, full, ones_like, stack

from keel.engines import (
    Batch,
    Calls,
    ChatTemplate,
    Completion,
    Divergence,
    Reading,
    Recording,
    TurnRecord,
    engine_call,
    text_before,
)
from keel.steering import Firing, Intervention, check_reached
from keel.testing.planted import PlantedStream, Steered, Words
from keel.testing.tiny_models import tiny_tokenizer
from keel.types import Activations, AssistantAxis, Conversation, Prompt, Sampling

Reply = Callable[[Conversation, float, Random], str]
"""The text that answers a conversation, given the steered persona and a random generator."""


def echo(conversation: Conversation, persona: float, chance: Random) -> str:
    """The last message's words in random order, with a howl first for a persona below 0.5."""
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
        batches_continuously: bool = False,
        unreached_layers: Collection[int] = (),
    ) -> None:
        """At `unreached_layers` interventions silently do nothing: to test that this is caught."""
        planted = {} if personas is None else {"personas": personas}
        self.stream = PlantedStream(layers, hidden, seed, noise, **planted)
        self.reply = reply
        self.batches_continuously = batches_continuously
        self.unreached_layers = frozenset(unreached_layers)
        self.identity = self.stream.identity
        self.local_model = None
        self.engine_calls = Calls()

    @cached_property
    def template(self) -> ChatTemplate:
        """That of a tiny tokenizer; the planted stream itself knows words, not its tokens."""
        return ChatTemplate(tiny_tokenizer())

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.stream.layers

    @property
    def axis(self) -> AssistantAxis:
        """The planted axis, which a real engine could not know."""
        return self.stream.axis

    def template_facts(self) -> dict[str, str]:
        """Nothing: what is answered does not depend on the template."""
        return {}

    def plan(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Batch]:
        """Batches of four, shortest prompts first."""
        lengths = [len(self.stream.words(p.conversation).ids) for p in prompts]
        order = sorted(range(len(prompts)), key=lambda index: (lengths[index], index))
        starts = range(0, len(order), 4)
        return [Batch(number, tuple(order[n : n + 4])) for number, n in enumerate(starts)]

    @engine_call
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
    ) -> Generator[Completion, None, Firing | None]:
        """Answers from `reply`, cut at max_new_tokens words; greedy ones ignore the seed."""
        firing: Firing | None = None
        for index in reversed(range(len(prompts))):
            if on_step is not None:
                on_step()
            conversation = prompts[index].conversation
            own = f"{seed}/{index}" if isinstance(seed, int) else str(seed[index])
            chance = Random(own if sampling.temperature else 0)
            text = self.reply(conversation, self._persona(conversation, interventions), chance)
            limit = sampling.max_new_tokens
            is_cut = len(text.split()) > limit
            text = " ".join(text.split()[:limit]) if is_cut else text
            is_stopped = any(stop in text for stop in sampling.stop)
            text = text_before(text, sampling.stop)
            if on_text is not None:
                on_text(index, text)
            words = self.stream.words(conversation.with_reply(text)).answering
            steered = self._steered(words, interventions)
            firing = _sum(firing, steered.firing(ones_like(words.is_generated_T)))
            record = _records(words, steered, recording)[-1]
            yield Completion(
                index,
                text,
                record.token_ids,
                "length" if is_cut and not is_stopped else "stop",
                record.activations,
                record.projections_TK,
            )
        return firing

    @engine_call
    def read(
        self,
        conversations: Sequence[Conversation],
        *,
        recording: Recording,
        interventions: Sequence[Intervention] = (),
    ) -> Generator[Reading, None, Firing | None]:
        """Every turn that has words. Each token's log-likelihood is −1."""
        firing: Firing | None = None
        for index in reversed(range(len(conversations))):
            words = self.stream.words(conversations[index])
            steered = self._steered(words, interventions)
            # Only the assistant's words count, as they do in a real engine.
            firing = _sum(firing, steered.firing(words.is_generated_T))
            turns = _records(words, steered, recording)
            yield Reading(index, tuple(turn for turn in turns if turn.token_ids))
        return firing

    def divergence(
        self,
        conversations: Sequence[Conversation],
        settings: Sequence[Sequence[Intervention]],
    ) -> Iterator[Divergence]:
        """Half the squared shift at the last layer: the KL of unit Gaussians that far apart."""
        self.engine_calls.close()
        for index in reversed(range(len(conversations))):
            words = self.stream.words(conversations[index])
            plain_TD = self.stream.steered(words, ()).stream_LTD[-1]
            for number, interventions in enumerate(settings):
                steered = self._steered(words, interventions)
                check_reached(
                    steered.firing(words.is_generated_T), [each.layer for each in interventions]
                )
                moved_TD = steered.stream_LTD[-1]
                shift_ND = (moved_TD - plain_TD)[words.is_generated_T]
                kl = float(shift_ND.square().sum(-1).mean()) / 2
                yield Divergence(index, number, kl, len(shift_ND))

    def close(self) -> None:
        """Break off the call that is open; nothing else was started."""
        self.engine_calls.close()

    def _persona(self, conversation: Conversation, interventions: Sequence[Intervention]) -> float:
        """The persona with which an answer begins, as steered, give or take the noise."""
        words = self.stream.words(conversation.with_reply(".")).answering
        first_D = self._steered(words, interventions).stream_LTD[-1, -1]
        return float(first_D @ self.stream.direction) / self.layers

    def _steered(self, words: Words, interventions: Sequence[Intervention]) -> Steered:
        reached = [each for each in interventions if each.layer not in self.unreached_layers]
        return self.stream.steered(words, reached)


def _sum(firing: Firing | None, now: Firing | None) -> Firing | None:
    return now if now is None or firing is None else firing + now


def _records(words: Words, steered: Steered, recording: Recording) -> list[TurnRecord]:
    """What was recorded of each assistant turn."""
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
