"""Reads roles, traits, questions, rubrics and red teams: ours, and the reference's as they are.

The reference implementation's forms: a role is `{"instruction": [{"pos"}, ...], "questions",
"eval_prompt"}` and named by its file; a trait's instructions have a `neg` too; a question is
`{"question", "id"}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from keel.errors import MissingArtifactError, UsageError
from keel.prompts.files import Record, read_csv, read_json, read_jsonl, read_text
from keel.prompts.values import (
    Library,
    Question,
    RedTeamCase,
    Role,
    Trait,
    check_default_prompts,
    check_unique,
)
from keel.types import DEFAULT_ROLE, Rubric

SCHEMA_VERSION = 1
"""Of our own forms; a library that names another one in its `library.json` is not read."""

# Not in the library's folder, where every JSON file is a role or a trait.
_SHIPPED = Path(__file__).with_name("rubrics.json")

Named = TypeVar("Named", Role, Trait)


def read_library(folder: str | Path) -> Library:
    """All that a folder holds of a library: roles, traits, default, questions.

    Roles and traits stand in NAME.json or in `roles.jsonl` and `traits.jsonl`, questions in
    `questions.jsonl`. Raises MissingArtifactError for a folder with nothing of the kind.
    """
    folder = Path(folder)
    loose = _loose_records(folder)
    roles = _all_of("role", folder, [r for r in loose if not _is_trait(r)], role_of)
    traits = _all_of("trait", folder, [r for r in loose if _is_trait(r)], trait_of)
    questions = folder / "questions.jsonl"
    if not (roles or traits or questions.exists()):
        raise MissingArtifactError(
            f"{folder} has no roles, traits or questions; expected NAME.json, roles.jsonl, "
            "traits.jsonl or questions.jsonl"
        )
    pool = read_questions(questions) if questions.exists() else ()
    return Library(roles, _default_prompts(folder), pool, traits)


def read_roles(folder: str | Path) -> Library:
    """The roles of a folder, and the default where it has a `default.json`; no questions.

    Roles stand in NAME.json, one per file, ours or the reference's, or in a `roles.jsonl`.
    Raises MissingArtifactError for a folder without roles, UsageError naming file and key.
    """
    folder = Path(folder)
    roles = _all_of("role", folder, _loose_records(folder), role_of)
    if not roles:
        raise _nothing("role", folder)
    return Library(roles, _default_prompts(folder), ())


def read_traits(folder: str | Path) -> tuple[Trait, ...]:
    """The traits of a folder: NAME.json, one per file, ours or the reference's, or `traits.jsonl`.

    Raises MissingArtifactError for a folder without traits, UsageError naming file and key.
    """
    folder = Path(folder)
    traits = _all_of("trait", folder, _loose_records(folder), trait_of)
    if not traits:
        raise _nothing("trait", folder)
    return traits


def read_questions(path: str | Path) -> tuple[Question, ...]:
    """Questions from a JSONL file, ours or the reference's, or from a .txt file, one a line.

    Raises UsageError naming file and line, for a file without questions, and where a question
    stands twice; the reference's are compared by id, for one of its 240 has a twin.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".txt"):
        read_text(path)  # a file that is not there is said first
        raise UsageError(
            f"{path} ends in {path.suffix!r}, expected .jsonl, or .txt (one a line); save it so"
        )
    if path.suffix == ".txt":
        lines = filter(None, map(str.strip, read_text(path).split("\n")))
        questions = [(line, Question(line)) for line in lines]
    else:
        questions = [_question(record) for record in read_jsonl(path)]
    if not questions:
        raise UsageError(f"{path} has no questions; give one a line")
    check_unique(f"{path}: question", [key for key, _ in questions])
    return tuple(question for _, question in questions)


def read_rubrics(path: str | Path | None = None) -> dict[str, Rubric]:
    """Keel's rubrics by name; those of a file with the same keys replace or complement them.

    Raises UsageError naming the file and what in it cannot be taken.
    """
    files = [_SHIPPED] if path is None else [_SHIPPED, Path(path)]
    rubrics = (rubric for file in files for rubric in read_json(file).read_as(_Rubrics).rubrics)
    return {rubric.name: rubric for rubric in rubrics}


def read_red_team(path: str | Path) -> tuple[RedTeamCase, ...]:
    """Your own red-team cases, from a CSV file with a heading or from a JSONL file.

    Each has a `prompt` (the persona's system prompt; empty for none), a `request` and a `category`,
    and may have an `id` and a `good_answer`. Raises UsageError naming file, line and key.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".jsonl"):
        read_text(path)  # a file that is not there is said first
        raise UsageError(f"{path} ends in {path.suffix!r}, expected .csv or .jsonl; save it so")
    records = read_csv(path) if path.suffix == ".csv" else read_jsonl(path)
    if not records:
        raise UsageError(f"{path} has no cases; give one a line: prompt, request, category")
    cases = []
    for number, record in enumerate(records, start=1):
        unnamed = {"id": f"case_{number}"} if record.data.get("id", "") == "" else {}
        cases.append(replace(record, data=record.data | unnamed).read_as(RedTeamCase))
    check_unique(f"{path}: red-team case", [case.id for case in cases])
    return tuple(cases)


def role_of(record: Record) -> Role:
    """The role that a record describes, in our form or the reference's."""
    if "instruction" in record.data:
        theirs = record.read_as(_ReferenceRole)
        prompts = [prompt.pos for prompt in theirs.instruction]
        data = {"name": record.stem, "system_prompts": prompts, "rubric": theirs.eval_prompt}
        record = replace(record, data=data)
    return record.read_as(Role)


def trait_of(record: Record) -> Trait:
    """The trait that a record describes, in our form or the reference's."""
    questions: tuple[str, ...] = ()
    if "instruction" in record.data:
        theirs = record.read_as(_ReferenceTrait)
        questions = theirs.questions
        pairs = [{"encourage": pair.pos, "discourage": pair.neg} for pair in theirs.instruction]
        data = {"name": record.stem, "pairs": pairs, "rubric": theirs.eval_prompt}
        record = replace(record, data=data)
    return record.read_as(Trait, {"questions": questions})


@dataclass(frozen=True)
class _Header:
    """A library's own file."""

    schema_version: int
    title: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise UsageError(
                f"schema_version is {self.schema_version}, expected {SCHEMA_VERSION}; "
                "use the version of Keel that it was written for"
            )


@dataclass(frozen=True)
class _Default:
    system_prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        check_default_prompts(self.system_prompts)


@dataclass(frozen=True)
class _Rubrics:
    schema_version: Literal[1]
    rubrics: tuple[Rubric, ...]

    def __post_init__(self) -> None:
        check_unique("rubric", [rubric.name for rubric in self.rubrics])


@dataclass(frozen=True)
class _ReferencePrompt:
    pos: str


@dataclass(frozen=True)
class _ReferenceRole:
    instruction: tuple[_ReferencePrompt, ...]
    questions: tuple[str, ...] = ()
    eval_prompt: str = ""


@dataclass(frozen=True)
class _ReferencePair:
    pos: str
    neg: str


@dataclass(frozen=True)
class _ReferenceTrait:
    instruction: tuple[_ReferencePair, ...]
    questions: tuple[str, ...] = ()
    eval_prompt: str = ""


@dataclass(frozen=True)
class _ReferenceQuestion:
    question: str
    id: int | None = None


def _loose_records(folder: Path) -> list[Record]:
    """A folder's JSON files, but for the default's and the library's own."""
    if not folder.is_dir():
        raise MissingArtifactError(f"{folder} is no folder; give one with JSON files in it")
    records = []
    for path in sorted(p for p in folder.glob("*.json") if not p.name.startswith(".")):
        record = read_json(path)
        if record.stem == DEFAULT_ROLE:  # by its exact name: a role may be called "defaulter"
            continue
        if "schema_version" in record.data:  # by its key: a role may be called "library"
            record.read_as(_Header)
        else:
            records.append(record)
    return records


def _is_trait(record: Record) -> bool:
    """By its keys, since roles and traits may stand in one folder."""
    theirs = record.data.get("instruction")
    pairs = theirs if isinstance(theirs, list) else []
    return "pairs" in record.data or any(isinstance(pair, dict) and "neg" in pair for pair in pairs)


def _all_of(
    kind: str, folder: Path, loose: Iterable[Record], read: Callable[[Record], Named]
) -> tuple[Named, ...]:
    """The roles or traits in these records, then those of the folder's `roles.jsonl` or such."""
    path = folder / f"{kind}s.jsonl"
    lines: list[Record] = read_jsonl(path) if path.exists() else []
    values = tuple(read(record) for record in [*loose, *lines])
    check_unique(f"{folder}: {kind}", [value.name for value in values])
    return values


def _nothing(kind: str, folder: Path) -> MissingArtifactError:
    return MissingArtifactError(
        f"{folder} has no {kind} files; expected NAME.json, one per {kind}, or {kind}s.jsonl"
    )


def _default_prompts(folder: Path) -> tuple[str, ...]:
    path = folder / f"{DEFAULT_ROLE}.json"
    if not path.exists():
        return ()
    record = read_json(path)
    if "instruction" in record.data:
        theirs = record.read_as(_ReferenceRole).instruction
        record = replace(record, data={"system_prompts": [prompt.pos for prompt in theirs]})
    return record.read_as(_Default).system_prompts


def _question(record: Record) -> tuple[str, Question]:
    """A question after what tells it from the others of its file."""
    if "question" not in record.data:
        question = record.read_as(Question)
        return question.text, question
    theirs = record.read_as(_ReferenceQuestion)
    key = theirs.question if theirs.id is None else f"id {theirs.id}"
    return key, replace(record, data={"text": theirs.question}).read_as(Question)
