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
    Trait,
    TraitPair,
    check_default_prompts,
    check_unique,
)
from keel.types import DEFAULT_ROLE

SCHEMA_VERSION = 1
"""Of the keys below; a library that names another one in its `library.json` is not read."""


class _HeaderForm(Form):
    schema_version: int
    title: str = ""
    license: str = ""


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


class _PairForm(Form):
    encourage: str
    discourage: str


class _TraitForm(Form):
    name: str
    description: str = ""
    pairs: list[_PairForm]
    rubric: str = ""


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


def read_library(folder: str | Path) -> Library:
    """All that a folder holds of a library: roles, traits, default, questions.

    Roles and traits stand in NAME.json or in `roles.jsonl` and `traits.jsonl`, questions in
    `questions.jsonl`. Raises MissingArtifactError for a folder with nothing of the kind.
    """
    folder = Path(folder)
    loose = _loose_records(folder)
    roles = [r for r in loose if not _is_trait(r)] + _lines_of(folder / "roles.jsonl")
    traits = [r for r in loose if _is_trait(r)] + _lines_of(folder / "traits.jsonl")
    questions = folder / "questions.jsonl"
    if not (roles or traits or questions.exists()):
        raise MissingArtifactError(
            f"{folder} has no roles, traits or questions; expected NAME.json, roles.jsonl, "
            "traits.jsonl or questions.jsonl"
        )
    return Library(
        _roles(folder, roles),
        _default_prompts(folder / f"{DEFAULT_ROLE}.json"),
        read_questions(questions) if questions.exists() else (),
        _traits(folder, traits),
    )


def read_roles(folder: str | Path) -> Library:
    """The roles of a folder, and the default where it has a `default.json`; no questions.

    Roles stand in NAME.json, one per file, ours or the reference's, or in a `roles.jsonl`.
    Raises MissingArtifactError for a folder without roles, UsageError naming file and key.
    """
    folder = Path(folder)
    records = _loose_records(folder) + _lines_of(folder / "roles.jsonl")
    if not records:
        raise MissingArtifactError(
            f"{folder} has no role files; expected NAME.json, one per role, or roles.jsonl"
        )
    return Library(_roles(folder, records), _default_prompts(folder / f"{DEFAULT_ROLE}.json"), ())


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
    """The traits of a folder: NAME.json, one per file, ours or the reference's, or `traits.jsonl`.

    Raises MissingArtifactError for a folder without traits, UsageError naming file and key.
    """
    folder = Path(folder)
    records = _loose_records(folder) + _lines_of(folder / "traits.jsonl")
    if not records:
        raise MissingArtifactError(
            f"{folder} has no trait files; expected NAME.json, one per trait, or traits.jsonl"
        )
    return _traits(folder, records)


def _loose_records(folder: Path) -> list[Record]:
    """A folder's JSON files, but for the default's and the library's own."""
    if not folder.is_dir():
        raise MissingArtifactError(f"{folder} is no folder; give one with JSON files in it")
    paths = sorted(p for p in folder.glob("*.json") if not p.name.startswith("."))
    records = [read_json(path) for path in paths]
    # The default by its exact name: a role may be called "defaulter".
    return [r for r in records if r.stem != DEFAULT_ROLE and not _is_header(r)]


def _lines_of(path: Path) -> list[Record]:
    return read_jsonl(path) if path.exists() else []


def _is_header(record: Record) -> bool:
    """Whether this is a library's own file, by its key: a role may be called "library".

    Raises UsageError for a schema that is not ours.
    """
    if "schema_version" not in record.data:
        return False
    version = record.read_as(_HeaderForm).schema_version
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{record.where}: schema_version is {version}, expected {SCHEMA_VERSION}; "
            "use the version of Keel that it was written for"
        )
    return True


def _is_trait(record: Record) -> bool:
    """By its keys, since roles and traits may stand in one folder."""
    theirs = record.data.get("instruction")
    pairs = theirs if isinstance(theirs, list) else []
    return "pairs" in record.data or any(isinstance(one, dict) and "neg" in one for one in pairs)


def _roles(folder: Path, records: Iterable[Record]) -> tuple[Role, ...]:
    roles = tuple(role_of(record) for record in records)
    check_unique(f"{folder}: role", [role.name for role in roles])
    return roles


def _traits(folder: Path, records: Iterable[Record]) -> tuple[Trait, ...]:
    traits = tuple(trait_of(record) for record in records)
    check_unique(f"{folder}: trait", [trait.name for trait in traits])
    return traits


def role_of(record: Record) -> Role:
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


def trait_of(record: Record) -> Trait:
    if "instruction" in record.data:
        theirs = record.read_as(_ReferenceTrait)
        with record.named_in_errors():
            pairs = tuple(TraitPair(pair.pos, pair.neg) for pair in theirs.instruction)
            questions = tuple(theirs.questions)
            return Trait(record.stem, pairs, questions=questions, rubric=theirs.eval_prompt)
    ours = record.read_as(_TraitForm)
    with record.named_in_errors():
        pairs = tuple(TraitPair(pair.encourage, pair.discourage) for pair in ours.pairs)
        return Trait(ours.name, pairs, ours.description, rubric=ours.rubric)


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
