"""Reads roles, traits and questions: ours, and the reference implementation's files as they are.

The reference's forms: a role is `{"instruction": [{"pos"}, ...], "questions", "eval_prompt"}` and
named by its file; a trait's instructions have a `neg` too; a question is `{"question", "id"}`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from keel.errors import MissingArtifactError, UsageError
from keel.prompts.files import Form, Record, read_json, read_jsonl, read_text
from keel.prompts.values import (
    Library,
    Question,
    Role,
    Scenario,
    Trait,
    TraitPair,
    check_default_prompts,
    check_unique,
)
from keel.types import DEFAULT_ROLE


class _RoleForm(Form):
    name: str
    kind: str = ""
    description: str = ""
    system_prompts: list[str]
    rubric: str = ""


class _DefaultForm(Form):
    system_prompts: list[str]


class _QuestionForm(Form):
    text: str
    topic: str = ""


class _ScenarioForm(Form):
    id: str
    title: str
    system: str | None
    turns: list[str]


class _ReferencePrompt(Form):
    pos: str


class _ReferenceRole(Form):
    instruction: list[_ReferencePrompt]
    questions: list[str] = Field(default_factory=list)
    eval_prompt: str = ""


class _ReferencePair(Form):
    pos: str
    neg: str


class _ReferenceTrait(Form):
    instruction: list[_ReferencePair]
    questions: list[str] = Field(default_factory=list)
    eval_prompt: str = ""


class _ReferenceQuestion(Form):
    question: str
    id: int | None = None


def read_roles(folder: str | Path) -> Library:
    """The roles of a folder, and the default where it has a `default.json`; no questions.

    Roles stand in NAME.json, one per file, ours or the reference's, or in a `roles.jsonl`.
    Raises MissingArtifactError for a folder without roles, UsageError naming file and key.
    """
    folder = Path(folder)
    # The default by its exact name: a role may be called "defaulter".
    records = [r for r in _json_files(folder) if r.stem != DEFAULT_ROLE]
    if (folder / "roles.jsonl").exists():
        records += read_jsonl(folder / "roles.jsonl")
    if not records:
        raise MissingArtifactError(
            f"{folder} has no role files; expected NAME.json, one per role, or roles.jsonl"
        )
    roles = tuple(_role(record) for record in records)
    check_unique(f"{folder}: role", [role.name for role in roles])
    return Library(roles, _default_prompts(folder / f"{DEFAULT_ROLE}.json"), ())


def read_questions(path: str | Path) -> tuple[Question, ...]:
    """Questions from a JSONL file, ours or the reference's, or from a .txt file, one a line.

    Raises UsageError naming file and line, for a file without questions, and where a question is
    asked twice; the reference's are told apart by id, for one of its 240 has a twin.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".txt"):
        raise UsageError(f"{path} ends in {path.suffix!r}, expected .jsonl, or .txt (one a line)")
    found = _lines(path) if path.suffix == ".txt" else [_question(r) for r in read_jsonl(path)]
    if not found:
        raise UsageError(f"{path} has no questions; give one a line")
    check_unique(f"{path}: question", [key for key, _ in found])
    return tuple(question for _, question in found)


def read_traits(folder: str | Path) -> tuple[Trait, ...]:
    """The traits of a folder of the reference's files, one per trait, named by its file."""
    traits = tuple(_trait(record) for record in _json_files(Path(folder)))
    if not traits:
        raise MissingArtifactError(
            f"{folder} has no trait files; expected NAME.json, one per trait"
        )
    return traits


def read_scenarios(path: str | Path) -> tuple[Scenario, ...]:
    """Scenarios from a JSONL file, one a line."""
    forms = [record.read_as(_ScenarioForm) for record in read_jsonl(Path(path))]
    return tuple(Scenario(f.id, f.title, f.system, tuple(f.turns)) for f in forms)


def _json_files(folder: Path) -> list[Record]:
    if not folder.is_dir():
        raise MissingArtifactError(f"{folder} is no folder; give one with JSON files in it")
    paths = sorted(p for p in folder.glob("*.json") if not p.name.startswith("."))
    return [read_json(path) for path in paths]


def _role(record: Record) -> Role:
    if "instruction" in record.data:
        theirs = record.read_as(_ReferenceRole)
        with record.named_in_errors():
            return Role(record.stem, _texts(theirs.instruction), rubric=theirs.eval_prompt)
    ours = record.read_as(_RoleForm)
    with record.named_in_errors():
        return Role(ours.name, tuple(ours.system_prompts), ours.kind, ours.description, ours.rubric)


def _default_prompts(path: Path) -> tuple[str, ...]:
    if not path.exists():
        return ()
    record = read_json(path)
    if "instruction" in record.data:
        prompts = _texts(record.read_as(_ReferenceRole).instruction)
    else:
        prompts = tuple(record.read_as(_DefaultForm).system_prompts)
    with record.named_in_errors():
        check_default_prompts(prompts)
    return prompts


def _trait(record: Record) -> Trait:
    theirs = record.read_as(_ReferenceTrait)
    with record.named_in_errors():
        pairs = tuple(TraitPair(pair.pos, pair.neg) for pair in theirs.instruction)
        return Trait(
            record.stem, pairs, questions=tuple(theirs.questions), rubric=theirs.eval_prompt
        )


def _lines(path: Path) -> list[tuple[str, Question]]:
    lines = (line.strip() for line in read_text(path).split("\n"))
    return [(line, Question(line)) for line in lines if line]


def _question(record: Record) -> tuple[str, Question]:
    """What tells the question from the others of its file, and the question."""
    if "question" in record.data:
        theirs = record.read_as(_ReferenceQuestion)
        with record.named_in_errors():
            question = Question(theirs.question)
        return (theirs.question if theirs.id is None else f"id {theirs.id}"), question
    ours = record.read_as(_QuestionForm)
    with record.named_in_errors():
        return ours.text, Question(ours.text, ours.topic)


def _texts(instruction: Iterable[_ReferencePrompt]) -> tuple[str, ...]:
    return tuple(prompt.pos for prompt in instruction)
