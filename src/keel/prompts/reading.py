"""Reads roles, traits and questions from files: ours, and the reference implementation's as they are.

An unknown key is an error: a typo must not become a default.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keel.errors import MissingArtifactError, UsageError
from keel.prompts.values import Library, Question, Role, Trait, TraitPair
from keel.types import DEFAULT_ROLE


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Record = TypeVar("Record", bound=_Strict)


class RoleRecord(_Strict):
    """A role in our own form: one line of `roles.jsonl`, or one file."""

    name: str
    kind: str = ""
    description: str = ""
    system_prompts: Annotated[list[str], Field(min_length=5, max_length=5)]
    rubric: str = ""


class DefaultRecord(_Strict):
    """The default in our own form."""

    system_prompts: Annotated[list[str], Field(min_length=1)]


class _ReferencePrompt(_Strict):
    pos: str


class _ReferenceRole(_Strict):
    instruction: Annotated[list[_ReferencePrompt], Field(min_length=1)]
    questions: list[str] = []
    eval_prompt: str = ""


class _ReferencePair(_Strict):
    pos: str
    neg: str


class _ReferenceTrait(_Strict):
    instruction: Annotated[list[_ReferencePair], Field(min_length=1)]
    questions: list[str] = []
    eval_prompt: str = ""


class _QuestionRecord(_Strict):
    text: str
    topic: str = ""


class _ReferenceQuestion(_Strict):
    question: str
    id: int | str = 0


def read_roles(folder: str | Path) -> Library:
    """The roles of a folder, and the default where it has a `default.json`; no questions.

    Files are the reference's (`{"instruction": [{"pos": ...}], ...}`), ours, or our `roles.jsonl`.
    Raises MissingArtifactError for a folder without roles, UsageError naming file and key.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingArtifactError(f"{folder} is no folder; give one with a JSON file per role")
    roles = [_role(path, record) for path, record in _role_records(folder)]
    if not roles:
        raise MissingArtifactError(f"{folder} has no role files; expected NAME.json, one per role")
    path = folder / f"{DEFAULT_ROLE}.json"
    default = _default(path) if path.exists() else ()
    return Library(tuple(roles), default, ())


def read_questions(path: str | Path) -> tuple[Question, ...]:
    """Questions from JSONL, ours or the reference's, or from a text file, one a line.

    Raises UsageError naming file and line, and for a file without questions.
    """
    path = Path(path)
    if path.suffix in (".jsonl", ".json"):
        found = tuple(_question(record, where) for record, where in _records(path))
    else:
        found = tuple(Question(line.strip()) for line in _text(path).splitlines() if line.strip())
    if not found:
        raise UsageError(f"{path} has no questions; give one a line")
    return found


def read_traits(folder: str | Path) -> tuple[Trait, ...]:
    """The traits of a folder of the reference's files, a JSON file per trait."""
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise MissingArtifactError(
            f"{folder} has no trait files; expected NAME.json, one per trait"
        )
    return tuple(_trait(path) for path in paths)


def _role_records(folder: Path) -> Iterator[tuple[str, Any]]:
    """(where it stands, record) of each role."""
    for path in sorted(folder.glob("*.json")):
        if path.stem != DEFAULT_ROLE:  # by its exact name: a role may be called "defaulter"
            yield str(path), _parsed(_text(path), str(path))
    if (folder / "roles.jsonl").exists():
        yield from ((where, record) for record, where in _records(folder / "roles.jsonl"))


def _role(where: str, record: Any) -> Role:
    if isinstance(record, dict) and "instruction" in record:
        read = _valid(_ReferenceRole, record, where)
        texts = tuple(prompt.pos for prompt in read.instruction)
        return Role(Path(where).stem, texts, rubric=read.eval_prompt)
    ours = _valid(RoleRecord, record, where)
    return Role(ours.name, tuple(ours.system_prompts), ours.kind, ours.description, ours.rubric)


def _default(path: Path) -> tuple[str, ...]:
    record = _parsed(_text(path), str(path))
    if isinstance(record, dict) and "instruction" in record:
        return tuple(p.pos for p in _valid(_ReferenceRole, record, str(path)).instruction)
    return tuple(_valid(DefaultRecord, record, str(path)).system_prompts)


def _trait(path: Path) -> Trait:
    read = _valid(_ReferenceTrait, _parsed(_text(path), str(path)), str(path))
    pairs = tuple(TraitPair(pair.pos, pair.neg) for pair in read.instruction)
    return Trait(path.stem, pairs, questions=tuple(read.questions), rubric=read.eval_prompt)


def _question(record: Any, where: str) -> Question:
    if isinstance(record, dict) and "question" in record:
        return Question(_valid(_ReferenceQuestion, record, where).question)
    ours = _valid(_QuestionRecord, record, where)
    return Question(ours.text, ours.topic)


def _records(path: Path) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _parsed(line, where), where


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MissingArtifactError(
            f"cannot read {path}: {error}; give a UTF-8 text file"
        ) from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: not JSON ({error}); mend the file") from error


def _valid(kind: type[Record], record: Any, where: str) -> Record:
    try:
        return kind.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the record"
        known = ", ".join(kind.model_fields)
        raise UsageError(f"{where}: {key}: {first['msg']}; known keys: {known}") from error
