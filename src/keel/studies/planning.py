"""Plans a study: simulated users, their lines, and groups of conversations. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Protocol, runtime_checkable

from keel.errors import UsageError
from keel.seeds import shuffle_key
from keel.settings import DriftStudySettings
from keel.types import NEUTRAL_DOMAIN, PlannedConversation, ScriptedMessage


@runtime_checkable
class Person(Protocol):
    """A simulated user."""

    @property
    def id(self) -> str:
        """Unique among people."""

    @property
    def domain(self) -> str:
        """Which domain's lines they speak."""

    @property
    def topics(self) -> tuple[str, ...]:
        """Subjects of conversations."""


@runtime_checkable
class Line(Protocol):
    """What a scripted user may say."""

    @property
    def domain(self) -> str:
        """Whose line it is."""

    @property
    def pull(self) -> str:
        """What it asks of the model; `opening` for a first message."""

    @property
    def text(self) -> str:
        """The words; an opening holds the topic's slot."""


@dataclass(frozen=True)
class StudyPlan:
    """All conversations of a study, dealt into groups that go on together."""

    conversations: tuple[PlannedConversation, ...]
    groups: tuple[tuple[int, ...], ...]
    """Indices of conversations, in row order."""


def plan_study(
    settings: DriftStudySettings, people: Sequence[Person], lines: Sequence[Line]
) -> StudyPlan:
    """Conversations of people × topics in each domain, and neutral ones beside them.

    As many neutral ones as a domain has, and groups in which all domains are mixed.

    Nobody says a line twice in a conversation that is not long, and lines come in another order in
    each, so that words and turn are not the same. Raises UsageError where people, topics or lines
    are too few.
    """
    planned = list(_of_people(settings, people, lines))
    for number in range(settings.people * settings.topics):
        id = f"{NEUTRAL_DOMAIN}-{number + 1:03d}"
        script = _script(settings, id, NEUTRAL_DOMAIN, [""], lines)
        planned.append(PlannedConversation(id, NEUTRAL_DOMAIN, id, "", script))
    order = sorted(range(len(planned)), key=lambda n: shuffle_key(settings.seed, planned[n].id))
    starts = range(0, len(order), settings.at_once)
    groups = tuple(tuple(order[n : n + settings.at_once]) for n in starts)
    return StudyPlan(tuple(planned), groups)


def _of_people(
    settings: DriftStudySettings, people: Sequence[Person], lines: Sequence[Line]
) -> Iterator[PlannedConversation]:
    for domain in settings.domain_names:
        speakers = [person for person in people if person.domain == domain]
        if len(speakers) < settings.people:
            raise UsageError(
                f"{len(speakers)} people in {domain}, expected {settings.people}; give fewer with "
                "--people"
            )
        for person in speakers[: settings.people]:
            if len(person.topics) < settings.topics:
                raise UsageError(
                    f"{person.id} has {len(person.topics)} topics, expected {settings.topics}; "
                    "take fewer with --topics"
                )
            for number, topic in enumerate(person.topics[: settings.topics]):
                id = f"{person.id}-t{number + 1:02d}"
                on_from_here = (*person.topics[number:], *person.topics[:number])
                script = _script(settings, id, domain, on_from_here, lines)
                yield PlannedConversation(id, domain, person.id, topic, script)


def _script(
    settings: DriftStudySettings, id: str, domain: str, topics: Sequence[str], lines: Sequence[Line]
) -> tuple[ScriptedMessage, ...]:
    """One message per turn, in an order that the seed and the conversation decide.

    Of a long one block after block, each on the next topic and with all lines in another order.
    """
    said: list[ScriptedMessage] = []
    for block, topic in enumerate(cycle(topics)):
        key = id if block == 0 else f"{id}/{block}"
        said += _block(settings.seed, key, domain, topic, lines)
        if len(said) >= settings.turns:
            return tuple(said[: settings.turns])
        if not settings.is_long or not said:
            raise UsageError(
                f"{domain} has lines for {len(said)} turns, expected {settings.turns}; take fewer "
                "with --turns, or let lines come again with --long"
            )
    raise AssertionError("topics never end")


def _block(
    seed: int, key: str, domain: str, topic: str, lines: Sequence[Line]
) -> Iterator[ScriptedMessage]:
    """An opening on the topic, where the domain has one, and every other line once."""
    own = sorted(
        (line for line in lines if line.domain == domain),
        key=lambda line: shuffle_key(seed, f"{key}/{line.text}"),
    )
    first = [line for line in own if line.pull == "opening"][:1]
    slots: Mapping[str, str] = {
        "{topic}": topic[:1].lower() + topic[1:],
        "{Topic}": topic,
    }
    for line in (*first, *(line for line in own if line.pull != "opening")):
        text = line.text
        for slot, value in slots.items():
            text = text.replace(slot, value)
        yield ScriptedMessage(text, f"script:{line.domain}/{line.pull}")
