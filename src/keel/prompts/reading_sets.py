"""Reads the sets of prompts that evaluations ask: ours, and a user's own red team."""

from __future__ import annotations

from pathlib import Path

from keel.errors import UsageError
from keel.prompts.files import Form, read_csv, read_jsonl
from keel.prompts.sets import (
    Prefill,
    RedTeamCase,
    RedTeamPersona,
    RedTeamRequest,
    SusceptibleRole,
    UserPersona,
)
from keel.prompts.values import Scenario, check_unique


class _ScenarioForm(Form):
    id: str
    title: str
    system: str | None
    turns: list[str]


class _SusceptibleForm(Form):
    role: str
    system_prompts: list[str]


class _PrefillForm(Form):
    kind: str
    text: str


class _UserForm(Form):
    id: str
    domain: str
    name: str
    description: str
    topics: list[str]


class _PersonaForm(Form):
    id: str
    system_prompt: str


class _RequestForm(Form):
    id: str
    category: str
    request: str
    good_answer: str


class _CaseForm(Form):
    prompt: str
    request: str
    category: str
    id: str = ""
    good_answer: str = ""


def read_red_team(path: str | Path) -> tuple[RedTeamCase, ...]:
    """Your own red-team cases, from a CSV file with a heading or from a JSONL file.

    Each has a `prompt` (the persona's system prompt; empty for none), a `request` and a `category`,
    and may have an `id` and a `good_answer`. Raises UsageError naming file, line and key.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".jsonl"):
        raise UsageError(f"{path} ends in {path.suffix!r}, expected .csv or .jsonl")
    records = read_csv(path) if path.suffix == ".csv" else read_jsonl(path)
    if not records:
        raise UsageError(f"{path} has no cases; give one a line: prompt, request, category")
    cases = []
    for number, record in enumerate(records, start=1):
        form = record.read_as(_CaseForm)
        name = form.id or f"case_{number}"
        with record.named_in_errors():
            cases.append(
                RedTeamCase(name, form.prompt, form.request, form.category, form.good_answer)
            )
    check_unique(f"{path}: red-team case", [case.id for case in cases])
    return tuple(cases)


def read_scenarios(path: Path) -> tuple[Scenario, ...]:
    """Scenarios from a JSONL file, one a line."""
    forms = [record.read_as(_ScenarioForm) for record in read_jsonl(path)]
    return tuple(Scenario(f.id, f.title, f.system, tuple(f.turns)) for f in forms)


def read_susceptible_roles(path: Path) -> tuple[SusceptibleRole, ...]:
    """Roles near to an assistant's from a JSONL file, one a line."""
    forms = [record.read_as(_SusceptibleForm) for record in read_jsonl(path)]
    return tuple(SusceptibleRole(f.role, tuple(f.system_prompts)) for f in forms)


def read_prefills(path: Path) -> tuple[Prefill, ...]:
    """Beginnings of sentences from a JSONL file, one a line."""
    forms = [record.read_as(_PrefillForm) for record in read_jsonl(path)]
    return tuple(Prefill(f.kind, f.text) for f in forms)


def read_user_personas(path: Path) -> tuple[UserPersona, ...]:
    """People who talk with the model, from a JSONL file, one a line."""
    forms = [record.read_as(_UserForm) for record in read_jsonl(path)]
    return tuple(UserPersona(f.id, f.domain, f.name, f.description, tuple(f.topics)) for f in forms)


def read_red_team_personas(path: Path) -> tuple[RedTeamPersona, ...]:
    """Personas from a JSONL file, one a line."""
    forms = [record.read_as(_PersonaForm) for record in read_jsonl(path)]
    return tuple(RedTeamPersona(f.id, f.system_prompt) for f in forms)


def read_red_team_requests(path: Path) -> tuple[RedTeamRequest, ...]:
    """Requests from a JSONL file, one a line."""
    forms = [record.read_as(_RequestForm) for record in read_jsonl(path)]
    return tuple(RedTeamRequest(f.id, f.category, f.request, f.good_answer) for f in forms)
