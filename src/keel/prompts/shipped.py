"""Keel's own library, as it ships, whole and text by text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from keel.prompts import reading_sets
from keel.prompts.reading import read_library, read_questions
from keel.prompts.sets import Prefill, RedTeam, SusceptibleRole, UserPersona
from keel.prompts.values import Library, Question, Scenario

_FOLDER = Path(__file__).with_name("library")


@cache
def load_library() -> Library:
    """The roles, traits, default prompts and questions that ship with Keel.

    Its questions are for everybody: any role can answer them, and so can any trait's prompts.
    """
    return read_library(_FOLDER)


def load_scenarios() -> tuple[Scenario, ...]:
    """Conversations that provoke a model to leave its character; the demo plays the first."""
    return reading_sets.read_scenarios(_FOLDER / "conversations.jsonl")


def load_susceptible_roles() -> tuple[SusceptibleRole, ...]:
    """Fifty jobs near to an assistant's, each set as a human being's in four ways."""
    return reading_sets.read_susceptible_roles(_FOLDER / "susceptibility.jsonl")


def load_introspective_questions() -> tuple[Question, ...]:
    """Five questions that make the one who answers say who or what it is."""
    return read_questions(_FOLDER / "introspective.jsonl")


def load_prefills() -> tuple[Prefill, ...]:
    """Twelve beginnings of a sentence on one's purpose and twelve on one's traits."""
    return reading_sets.read_prefills(_FOLDER / "prefills.jsonl")


def load_user_personas() -> tuple[UserPersona, ...]:
    """Twenty people, five in each of four domains, with twenty topics each."""
    return reading_sets.read_user_personas(_FOLDER / "users.jsonl")


def load_red_team() -> RedTeam:
    """Sixty personas and forty requests whose worst answer harms nobody.

    For stronger ones bring your own: `read_red_team`.
    """
    return RedTeam(
        reading_sets.read_red_team_personas(_FOLDER / "redteam_personas.jsonl"),
        reading_sets.read_red_team_requests(_FOLDER / "redteam_requests.jsonl"),
    )


@dataclass(frozen=True)
class PlacedText:
    """A text and where it stands."""

    place: str
    """Such as `role pirate, prompt 3`."""
    text: str


def texts_of(library: Library) -> Iterator[PlacedText]:
    """Every text of a library that somebody wrote; the empty default prompt is none."""
    for role in library.roles:
        yield PlacedText(f"role {role.name}, description", role.description)
        for number, text in enumerate(role.system_prompts, start=1):
            yield PlacedText(f"role {role.name}, prompt {number}", text)
        yield PlacedText(f"role {role.name}, rubric", role.rubric)
    for trait in library.traits:
        yield PlacedText(f"trait {trait.name}, description", trait.description)
        for number, pair in enumerate(trait.pairs, start=1):
            yield PlacedText(f"trait {trait.name}, encourage {number}", pair.encourage)
            yield PlacedText(f"trait {trait.name}, discourage {number}", pair.discourage)
        yield PlacedText(f"trait {trait.name}, rubric", trait.rubric)
    for number, text in enumerate(library.default_prompts, start=1):
        if text:
            yield PlacedText(f"default, prompt {number}", text)
    for question in library.questions:
        yield PlacedText(f"question on {question.topic}", question.text)


def shipped_texts() -> Iterator[PlacedText]:
    """Every text that ships with Keel: the library's, and the sets' that evaluations ask."""
    yield from texts_of(load_library())
    for said in load_scenarios():
        for text in (said.title, said.system or "", *said.turns):
            if text:
                yield PlacedText(f"scenario {said.id}", text)
    for role in load_susceptible_roles():
        for number, text in enumerate(role.system_prompts, start=1):
            yield PlacedText(f"susceptible role {role.role}, prompt {number}", text)
    for asked in load_introspective_questions():
        yield PlacedText("introspective question", asked.text)
    for prefill in load_prefills():
        yield PlacedText(f"prefill on {prefill.kind}", prefill.text)
    for user in load_user_personas():
        yield PlacedText(f"user {user.id}, description", user.description)
        yield from (PlacedText(f"user {user.id}, topic", topic) for topic in user.topics)
    for persona in load_red_team().personas:
        yield PlacedText(f"red team, {persona.id}", persona.system_prompt)
    for request in load_red_team().requests:
        yield PlacedText(f"red team, {request.id}", request.request)
        yield PlacedText(f"red team, {request.id}, good answer", request.good_answer)


def shipped_counts() -> dict[str, int]:
    """How many of each thing ship with Keel."""
    library, red_team = load_library(), load_red_team()
    susceptible = load_susceptible_roles()
    return {
        "roles": len(library.roles),
        "role_prompts": sum(len(role.system_prompts) for role in library.roles),
        "default_prompts": len(library.default_prompts),
        "traits": len(library.traits),
        "trait_pairs": sum(len(trait.pairs) for trait in library.traits),
        "questions": len(library.questions),
        "scenarios": len(load_scenarios()),
        "susceptible_roles": len(susceptible),
        "susceptible_role_prompts": sum(len(role.system_prompts) for role in susceptible),
        "introspective_questions": len(load_introspective_questions()),
        "prefills": len(load_prefills()),
        "user_personas": len(load_user_personas()),
        "user_topics": sum(len(user.topics) for user in load_user_personas()),
        "red_team_personas": len(red_team.personas),
        "red_team_requests": len(red_team.requests),
    }
