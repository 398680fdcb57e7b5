"""Transcript files as conversations, with what was left out of them and what was skipped."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keel.drift.transcripts.files import Located, described, values_in
from keel.drift.transcripts.forms import (
    Outline,
    load_forms,
    outlines_of,
    system_of,
    unread_beside,
)
from keel.drift.transcripts.messages import Note, kind_of, read_messages, text_of
from keel.drift.transcripts.rows import group_rows
from keel.errors import UsageError
from keel.types import Conversation

_SHAPES = (
    'expected {"messages": [...]}, {"conversation": [...]}, a list of messages, or another form '
    "that docs/transcripts.md lists"
)


@dataclass(frozen=True)
class Transcripts:
    """What stands in transcript files."""

    conversations: tuple[Conversation, ...]
    notes: tuple[Note, ...] = ()
    """What the models saw and the conversations do not hold, e.g. images."""
    skipped: tuple[UsageError, ...] = ()
    """Why some conversations could not be read."""
    domains: tuple[str, ...] = ()
    """What each conversation is about: its `domain` in the file, else the file's name."""

    def summary(self) -> Iterator[str]:
        """Lines that say what was left out and skipped, equal cases counted together."""
        counts = Counter(note.what for note in self.notes)
        for what, count in counts.items():
            first = next(note.location for note in self.notes if note.what == what)
            yield f"{count} × {what}, first in {first}"
        if self.skipped:
            yield f"{len(self.skipped)} not readable and skipped, first: {self.skipped[0]}"


@dataclass(frozen=True)
class _Draft:
    """A conversation's outline, with what may stand beside it in the file."""

    outline: Outline
    location: str
    name: str
    beside: dict[str, Any]
    domain: Any
    """As the file has it."""
    file: str
    """The file's name, without its ending."""


def read_transcripts(paths: Iterable[str | Path], *, skip_unreadable: bool = False) -> Transcripts:
    """The conversations of transcript files, in order; a batch's answers with their requests.

    Ids are those of the file, else the file's name, numbered from 1 if it holds several. What is
    no text (images, calls of tools and their results) is left out and noted. Raises
    MissingArtifactError where a file is not there, UsageError with the location of a conversation
    that cannot be read; `skip_unreadable` collects these instead.
    """
    load_forms()
    skipped: list[UsageError] = []
    drafts: list[_Draft] = []
    for path in map(Path, paths):
        values = list(group_rows(str(path), values_in(path)))
        for number, value in enumerate(values, 1):
            name = path.stem if len(values) == 1 else f"{path.stem}#{number}"
            try:
                drafts += _drafts(value, name, path.stem)
            except UsageError as error:
                _keep(error, skipped, skip_unreadable)
    conversations, domains, notes = [], [], []
    for draft in _paired(drafts):
        own: list[Note] = []
        try:
            conversation, domain = _conversation(draft, own), _domain(draft, own)
        except UsageError as error:
            _keep(error, skipped, skip_unreadable)
        else:
            conversations.append(conversation)
            domains.append(domain)
            notes += own
    if not conversations and skipped:
        raise UsageError(f"none of {len(skipped)} conversations can be read, first: {skipped[0]}")
    return Transcripts(tuple(conversations), tuple(notes), tuple(skipped), tuple(domains))


def read_conversations(path: str | Path) -> list[Conversation]:
    """The conversations of one file; warns of what was left out. Raises as `read_transcripts`."""
    transcripts = read_transcripts([path])
    for line in transcripts.summary():
        warnings.warn(line, stacklevel=2)
    return list(transcripts.conversations)


def _keep(error: UsageError, skipped: list[UsageError], skip_unreadable: bool) -> None:
    if not skip_unreadable:
        raise UsageError(f"{error}; --skip-unreadable goes on without it") from None
    skipped.append(error)


def _drafts(value: Located, name: str, file: str) -> list[_Draft]:
    if value.error is not None:
        raise value.error
    try:
        outlines = outlines_of(value.value)
    except UsageError as error:
        raise UsageError(f"{value.location}: {error}") from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise UsageError(
            f"{value.location} has {described(value.value)}, but not in the shape of the program "
            f"that writes these ({type(error).__name__}: {error}); export it again, or mend it"
        ) from None
    if not outlines:
        what = described(value.value)
        has = "has" if isinstance(value.value, dict) else "holds"
        raise UsageError(f"{value.location} {has} {what}, {_SHAPES}")
    whole = value.value if isinstance(value.value, dict) else {}
    return [_draft(outline, whole, value.location, name, file) for outline in outlines]


def _draft(outline: Outline, whole: dict[str, Any], location: str, name: str, file: str) -> _Draft:
    """An outline with what stands beside it; its domain beside it, in its metadata, or outside."""
    beside = whole if outline.beside is None else outline.beside
    metadata = beside.get("metadata")
    holders = (beside, metadata if isinstance(metadata, dict) else {}, whole)
    own = (each.get("domain") for each in holders)
    domain = next((name for name in own if name not in (None, "") and str(name).strip()), None)
    return _Draft(outline, location, name, beside, domain, file)


def _domain(draft: _Draft, notes: list[Note]) -> str:
    """The file's own word for the subject, else the name of the file."""
    return _label(draft.domain, "domain", draft.location, notes) or draft.file


def _label(value: Any, name: str, location: str, notes: list[Note]) -> str:
    """A name as one line of text; empty where there is none or it is no text, which is noted."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if is_number else value
    if text is None:
        return ""
    if not isinstance(text, str):
        notes.append(Note(location, f"{name} that is {kind_of(value)} left out"))
        return ""
    return " ".join(text.encode(errors="replace").decode().split())


def _paired(drafts: list[_Draft]) -> Iterator[_Draft]:
    """Requests with their answers, where these stand apart; all others as they are."""
    answers = {draft.outline.answers: draft for draft in drafts if draft.outline.answers}
    requests = {draft.outline.requests for draft in drafts}
    for draft in drafts:
        outline = draft.outline
        answer = answers.get(outline.requests) if outline.requests else None
        if answer is not None:
            notes = (*outline.notes, *answer.outline.notes)
            messages = [*outline.messages, *answer.outline.messages]
            yield replace(draft, outline=replace(outline, messages=messages, notes=notes))
        elif not outline.answers or outline.answers not in requests:
            yield draft


def _conversation(draft: _Draft, notes: list[Note]) -> Conversation:
    outline, location = draft.outline, draft.location
    if outline.answers:
        raise UsageError(
            f"{location} holds an answer without its request {outline.answers!r}; give the "
            "batch's file of requests, too: keel drift RUN requests.jsonl answers.jsonl"
        )
    raw = outline.messages
    if not isinstance(raw, list):
        raise UsageError(f"{location} holds {kind_of(raw)}, {_SHAPES}")
    if not raw:
        raise UsageError(f"{location} has no messages, expected at least one; remove it")
    notes += [Note(location, what) for what in outline.notes]
    texts = [text_of(each, location, notes) for each in system_of(draft.beside)]
    system = [text for text in texts if text.strip()]
    messages = read_messages(raw, location, notes, system)
    if not messages:
        raise UsageError(f"{location} has no message with text, expected at least one; remove it")
    said = "\n".join(message.content for message in messages)
    notes += [Note(location, what) for what in unread_beside(draft.beside, said)]
    own_id = outline.id if outline.id is not None else draft.beside.get("conversation_id")
    return Conversation(messages, _label(own_id, "id", location, notes) or draft.name)
