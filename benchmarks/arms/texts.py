"""Prompts and conversations to measure with, made from Keel's own library, the same every time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import keel
from keel.engines.catalogue import locate
from keel.prompts import Library, PromptSettings, load_library, make_prompts
from keel.types import Conversation, Message, Prompt

MODEL = "smollm2"
_SENTENCES = (2, 13)
"""Fewest and most sentences of an answer: lengths are as uneven as those of real answers."""


@dataclass(frozen=True)
class Given:
    """A conversation as every arm gets it: its text, its tokens, its answers' content tokens."""

    conversation: Conversation
    token_ids: list[int]
    spans: list[list[int]]
    """[start, stop] of each assistant turn's content tokens."""


def prompts(count: int) -> list[Prompt]:
    """So many prompts of different roles."""
    everything = make_prompts(load_library(), PromptSettings(), model_name="SmolLM2")
    return Random(0).sample(everything, count)


def write_conversations(path: str, count: int) -> dict[str, Any]:
    """A file that `read_conversations` reads, and what is in it.

    The tokens are made once, here, for all arms: some know no chat template.
    """
    engine: Any = keel.open_engine(MODEL)
    rows = []
    for conversation in conversations(count):
        transcript = engine.template.transcript(conversation)
        rows.append(
            {
                "messages": [[m.speaker, m.content] for m in conversation.messages],
                "token_ids": transcript.token_ids,
                "spans": [[turn.start, turn.stop] for turn in transcript.turns],
            }
        )
    Path(path).write_text(json.dumps(rows), encoding="utf-8")
    lengths = [len(row["token_ids"]) for row in rows]
    turns = sum(len(row["spans"]) for row in rows)
    dtype = engine.identity.dtype
    return {"model": locate(MODEL), "lengths": lengths, "turns": turns, "dtype": dtype}


def read_conversations(path: str) -> list[Given]:
    """The conversations of a file that `write_conversations` wrote."""
    rows = json.loads(Path(path).read_text(encoding="utf-8"))
    return [
        Given(
            Conversation(tuple(Message(*message) for message in row["messages"])),
            row["token_ids"],
            row["spans"],
        )
        for row in rows
    ]


def conversations(count: int) -> list[Conversation]:
    """So many conversations of one or two turns, their answers of very different lengths."""
    library = load_library()
    draws = Random(0)
    return [_conversation(library, draws, number) for number in range(count)]


def _conversation(library: Library, draws: Random, number: int) -> Conversation:
    role = draws.choice(library.roles)
    conversation = Conversation((Message("system", role.system_prompts[number % 5]),))
    for _ in range(draws.choice((1, 1, 1, 2))):
        conversation = conversation.with_user(draws.choice(library.questions).text)
        conversation = conversation.with_reply(_answer(library, draws))
    return conversation


def _answer(library: Library, draws: Random) -> str:
    """Sentences of the library one after another; what they say matters to no measurement."""
    roles = draws.sample(library.roles, draws.randint(*_SENTENCES))
    return " ".join(role.description for role in roles)
