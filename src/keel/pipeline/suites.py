"""Keel's own suites, made of its own prompts or a user's, and registered by name."""

from __future__ import annotations

from pathlib import Path

from keel.evaluate import SUITES as SUITES
from keel.evaluate import (
    Attack,
    base_purpose_suite,
    base_traits_suite,
    drift_harm_suite,
    jailbreak_suite,
    suite,
    susceptibility_suite,
)
from keel.evaluate import open_suite as open_suite
from keel.prompts import (
    load_introspective_questions,
    load_library,
    load_prefills,
    load_red_team,
    load_susceptible_roles,
    read_red_team,
)
from keel.types import Suite

_QUESTIONS = 10
"""Neutral questions with which drift-harm begins, as in the paper."""


@suite("susceptibility")
def susceptibility() -> Suite:
    """Jobs near to an assistant's, asked who they are."""
    roles = {role.role: role.system_prompts for role in load_susceptible_roles()}
    return susceptibility_suite(roles, [q.text for q in load_introspective_questions()])


@suite("jailbreak")
def jailbreak(data: Path | None = None) -> Suite:
    """Personas that ask for what a default assistant declines."""
    return jailbreak_suite(_attacks(data))


@suite("base-purpose")
def base_purpose() -> Suite:
    """What a base model says it is for."""
    return base_purpose_suite([p.text for p in load_prefills() if p.kind == "purpose"])


@suite("base-traits")
def base_traits() -> Suite:
    """What a base model says it is like."""
    return base_traits_suite([p.text for p in load_prefills() if p.kind == "traits"])


@suite("drift-harm")
def drift_harm(data: Path | None = None, requests_per_answer: int | None = None) -> Suite:
    """A role answers a neutral question, then gets a request."""
    library = load_library()
    # Their topics take turns, so that the first ten are one of each.
    questions = [question.text for question in library.questions[:_QUESTIONS]]
    roles = {role.name: role.system_prompts for role in library.roles}
    return drift_harm_suite(
        roles, questions, red_team_requests(data), requests_per_answer=requests_per_answer
    )


def red_team_requests(data: Path | None = None) -> tuple[Attack, ...]:
    """Every request of the shipped red team, or of a file, once."""
    return tuple({attack.request: attack for attack in _attacks(data)}.values())


def _attacks(data: Path | None) -> list[Attack]:
    cases = load_red_team().cases if data is None else read_red_team(data)
    return [
        Attack(case.id, case.system_prompt, case.request, case.category, case.good_answer)
        for case in cases
    ]
