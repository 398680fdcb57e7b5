"""New roles and traits, written by a language model and checked as the library's own are.

Lu et al. 2026 had theirs written so, from a name and a description (arXiv:2601.10387, app. A).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from keel.endpoint import ChatRequest, Endpoint, EndpointClient
from keel.errors import EndpointError, UsageError
from keel.prompts.checking import DESCRIPTION_WORDS, count_words, find_faults
from keel.prompts.files import Record
from keel.prompts.reading import role_of, trait_of
from keel.prompts.shipped import load_library
from keel.prompts.values import Library, Role, Trait
from keel.settings import EndpointLimits
from keel.types import Message

Ask = Callable[[Sequence[Message]], str]
"""A conversation -> what a model says next."""

Made = TypeVar("Made", Role, Trait)


@dataclass(frozen=True)
class PromptBrief:
    """The name and description that a role or trait is to be written from."""

    name: str
    description: str
    kind: str = ""
    """Of a role: professional, mythical, ..."""

    def __post_init__(self) -> None:
        if not self.name.replace("_", "").isalnum() or self.name != self.name.lower():
            raise UsageError(f"name is {self.name!r}, expected small letters, as in coral_reef")
        least, most = DESCRIPTION_WORDS
        if not least <= count_words(self.description) <= most:
            raise UsageError(
                f"description of {self.name!r} is {self.description!r}, expected {least} to {most} "
                "words that say who or what it is"
            )


@contextmanager
def open_endpoint(
    model: str, *, base_url: str | None = None, timeout_s: float = 300.0
) -> Iterator[Ask]:
    """Asks `model` at an address; without one, at that in OPENAI_BASE_URL, or OpenAI's.

    Raises MissingExtraError without the extra, UsageError where a key is needed and not set, and,
    when asked, EndpointError for whatever the other side refuses or leaves unanswered.
    """
    endpoint = Endpoint.of(model, base_url)
    limits = EndpointLimits(attempts=3, timeout_s=timeout_s, first_wait_s=0.5)
    with EndpointClient(endpoint, limits).connect() as connection:

        def ask(messages: Sequence[Message]) -> str:
            text = connection.ask(ChatRequest(messages)).text
            if not text:
                raise EndpointError(f"{endpoint} answered nothing; try another model")
            return text

        yield ask


def generate_role(brief: PromptBrief, ask: Ask, *, attempts: int = 3) -> Role:
    """A role with five system prompts and a rubric; asks again where the answer has faults.

    Raises UsageError, naming the faults, when the last attempt still has some.
    """
    if not brief.kind:
        raise UsageError(f"role {brief.name!r} has no kind; give one, such as professional")
    example = next(role for role in load_library().roles if role.name == _EXAMPLE_ROLE)
    shown = {"system_prompts": example.system_prompts, "rubric": example.rubric}
    task = (
        f"Write the character {brief.name!r} ({brief.kind}): {brief.description}\n\n"
        f"{_ROLE_FORM}\n\nFor the {example.name} ({example.description}) it reads:\n"
        f"{json.dumps(shown, ensure_ascii=False)}"
    )
    fixed = {"name": brief.name, "kind": brief.kind, "description": brief.description}
    where = f"role {brief.name}"
    return _generate(
        task, ask, lambda said: role_of(Record(where, brief.name, said | fixed)), attempts
    )


def generate_trait(brief: PromptBrief, ask: Ask, *, attempts: int = 3) -> Trait:
    """A trait with five pairs of system prompts and a rubric; else as `generate_role`."""
    example = next(trait for trait in load_library().traits if trait.name == _EXAMPLE_TRAIT)
    shown = {"pairs": [asdict(pair) for pair in example.pairs], "rubric": example.rubric}
    task = (
        f"Write the trait {brief.name!r}: {brief.description}\n\n"
        f"{_TRAIT_FORM}\n\nFor {example.name!r} ({example.description}) it reads:\n"
        f"{json.dumps(shown, ensure_ascii=False)}"
    )
    fixed = {"name": brief.name, "description": brief.description}
    where = f"trait {brief.name}"
    return _generate(
        task, ask, lambda said: trait_of(Record(where, brief.name, said | fixed)), attempts
    )


def save_prompts(made: Role | Trait, folder: Path) -> Path:
    """Write a role or trait to a new file FOLDER/NAME.json, in the form that is read."""
    path = folder / f"{made.name}.json"
    record = {k: v for k, v in asdict(made).items() if k != "questions"}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump(record, file, indent=2, ensure_ascii=False)
            file.write("\n")
    except FileExistsError:
        raise UsageError(f"{path} is there already; remove it, or choose another folder") from None
    return path


def _generate(task: str, ask: Ask, read: Callable[[dict[str, Any]], Made], attempts: int) -> Made:
    talk = [Message("system", _MANNER), Message("user", task)]
    complaint = "nothing was asked"
    for _ in range(attempts):
        said = ask(talk)
        try:
            made = read(_json_in(said))
            roles, traits = ((made,), ()) if isinstance(made, Role) else ((), (made,))
            faults = find_faults(Library(roles, (), (), traits))
            if not faults:
                return made
            complaint = "; ".join(f"{fault.location} {fault.complaint}" for fault in faults)
        except UsageError as error:
            complaint = str(error)
        again = f"That cannot be used yet: {complaint}. "
        again += "Answer again with the whole JSON object, mended."
        talk += [Message("assistant", said), Message("user", again)]
    raise UsageError(
        f"the model's answer was not usable in {attempts} attempts, the last because: "
        f"{complaint[:400]}; try a stronger model, or write it by hand"
    )


def _json_in(said: str) -> dict[str, Any]:
    """The JSON object in an answer that may have words or a fence around it."""
    start, end = said.find("{"), said.rfind("}")
    if start < 0 or end < start:
        raise UsageError("the answer holds no JSON object")
    try:
        record = json.loads(said[start : end + 1])
    except json.JSONDecodeError as error:
        raise UsageError(f"the answer's JSON is broken: {error}") from None
    assert isinstance(record, dict)  # it begins with a brace
    return record


_EXAMPLE_ROLE = "bartender"
_EXAMPLE_TRAIT = "patient"

_MANNER = (
    "You write short system prompts that set a language model's character. Write as for an actor: "
    "concrete, plain modern English, varied in syntax and opening, no sentence twice. A character "
    "that leads naturally to harm is written for voice and outlook, and holds no methods, no "
    "instructions and no encouragement to hurt. No real persons, no brands. "
    "Answer with one JSON object and nothing else."
)

_ROLE_FORM = (
    'The object has "system_prompts", a list of five texts of 12 to 45 words, each of which names '
    "the character and sets it alone, in this order: who it is, in the second person; a scene that "
    "is happening now; how it sounds; what it wants, fears and prizes; how it is to treat the "
    'user\'s message. And "rubric", one sentence of 8 to 45 words: by what an answer in this '
    "character is known."
)

_TRAIT_FORM = (
    'The object has "pairs", a list of five objects with "encourage" and "discourage", two system '
    "prompts of 12 to 45 words, alike in length and build, that pull answers in opposite "
    "directions along this trait alone; the second says what the opposite is like, not merely what "
    "to avoid. In this order: what the answers are like; what sort of person is speaking; habits "
    "of phrasing; what to prize and what to shun; how to treat the user's message. And "
    '"rubric", one sentence of 8 to 45 words: what an answer that scores 100 does and what one '
    "that scores 0 does."
)
