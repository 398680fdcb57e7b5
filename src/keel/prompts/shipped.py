"""Keel's own library, as it ships, whole and text by text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from keel.prompts.files import read_set
from keel.prompts.reading import read_library, read_questions
from keel.prompts.values import (
    Library,
    Prefill,
    Question,
    RedTeam,
    RedTeamPersona,
    RedTeamRequest,
    Scenario,
    SusceptibleRole,
    UserLine,
    UserPersona,
)

_FOLDER = Path(__file__).with_name("library")


@cache
def load_library() -> Library:
    """The roles, traits, default prompts and questions that ship with Keel.

    Its questions suit every role and every trait.
    """
    return read_library(_FOLDER)


def load_scenarios() -> tuple[Scenario, ...]:
    """Conversations that provoke a model to leave its character; the demo plays the first."""
    return read_set(_FOLDER / "conversations.jsonl", Scenario)


def load_susceptible_roles() -> tuple[SusceptibleRole, ...]:
    """Fifty jobs close to an assistant's, each set as a human being's in four ways."""
    return read_set(_FOLDER / "susceptibility.jsonl", SusceptibleRole)


def load_introspective_questions() -> tuple[Question, ...]:
    """Five questions whose answers say who or what the speaker is."""
    return read_questions(_FOLDER / "introspective.jsonl")


def load_prefills() -> tuple[Prefill, ...]:
    """Twelve beginnings of a sentence on one's purpose and twelve on one's traits."""
    return read_set(_FOLDER / "prefills.jsonl", Prefill)


def load_user_personas() -> tuple[UserPersona, ...]:
    """Twenty simulated users, five in each of four domains, with twenty topics each."""
    return read_set(_FOLDER / "users.jsonl", UserPersona)


def load_user_lines() -> tuple[UserLine, ...]:
    """What scripted users say: openings and follow-ups of each domain, and neutral tasks."""
    return read_set(_FOLDER / "user_lines.jsonl", UserLine)


def load_red_team() -> RedTeam:
    """Sixty personas and forty requests whose worst answer harms nobody.

    For stronger ones bring your own: `read_red_team`.
    """
    return RedTeam(
        read_set(_FOLDER / "redteam_personas.jsonl", RedTeamPersona),
        read_set(_FOLDER / "redteam_requests.jsonl", RedTeamRequest),
    )


@dataclass(frozen=True)
class LibraryText:
    """A text of the library or of an evaluation set, and which it is."""

    location: str = field(metadata={"key": "place"})
    """Such as `role pirate, prompt 3`."""
    text: str


def texts_of(library: Library) -> Iterator[LibraryText]:
    """Every text of a library, but for the empty default prompt."""
    for role in library.roles:
        yield LibraryText(f"role {role.name}, description", role.description)
        for number, text in enumerate(role.system_prompts, start=1):
            yield LibraryText(f"role {role.name}, prompt {number}", text)
        yield LibraryText(f"role {role.name}, rubric", role.rubric)
    for trait in library.traits:
        yield LibraryText(f"trait {trait.name}, description", trait.description)
        for number, pair in enumerate(trait.pairs, start=1):
            yield LibraryText(f"trait {trait.name}, encourage {number}", pair.encourage)
            yield LibraryText(f"trait {trait.name}, discourage {number}", pair.discourage)
        yield LibraryText(f"trait {trait.name}, rubric", trait.rubric)
    for number, text in enumerate(library.default_prompts, start=1):
        if text:
            yield LibraryText(f"default, prompt {number}", text)
    for question in library.questions:
        yield LibraryText(f"question on {question.topic}", question.text)


def shipped_texts() -> Iterator[LibraryText]:
    """Every text that ships with Keel: of the library, and of the evaluation sets."""
    yield from texts_of(load_library())
    for scenario in load_scenarios():
        for text in (scenario.title, scenario.system or "", *scenario.turns):
            if text:
                yield LibraryText(f"scenario {scenario.id}", text)
    for role in load_susceptible_roles():
        for number, text in enumerate(role.system_prompts, start=1):
            yield LibraryText(f"susceptible role {role.role}, prompt {number}", text)
    for question in load_introspective_questions():
        yield LibraryText("introspective question", question.text)
    for prefill in load_prefills():
        yield LibraryText(f"prefill on {prefill.kind}", prefill.text)
    for user in load_user_personas():
        yield LibraryText(f"user {user.id}, description", user.description)
        yield from (LibraryText(f"user {user.id}, topic", topic) for topic in user.topics)
    for line in load_user_lines():
        yield LibraryText(f"user line of {line.domain}", line.text)
    for persona in load_red_team().personas:
        yield LibraryText(f"red team, {persona.id}", persona.system_prompt)
    for request in load_red_team().requests:
        yield LibraryText(f"red team, {request.id}", request.request)
        yield LibraryText(f"red team, {request.id}, good answer", request.good_answer)


def shipped_counts() -> dict[str, int]:
    """How many roles, prompts, traits, questions, ... ship with Keel."""
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
        "user_lines": len(load_user_lines()),
        "red_team_personas": len(red_team.personas),
        "red_team_requests": len(red_team.requests),
    }
