"""Checks of the chat template and the context: what is put in, and which tokens are an answer's."""

from __future__ import annotations

from keel.doctor.findings import CheckFailedError
from keel.doctor.subject import Subject
from keel.types import Conversation, Message

_ANSWERS = ("Yes", "It is 42.")


def check_template(subject: Subject) -> str:
    """What the template adds by itself: system prompts, dates, thinking."""
    facts = subject.template.facts()
    conversation = Conversation((Message("system", "Be brief."), Message("user", "Who are you?")))
    subject.template.prompt_ids(conversation)
    return "; ".join(f"{name}: {value}" for name, value in facts.items())


def check_borders(subject: Subject) -> str:
    """Every answer's tokens lie inside its text, also those of answers of a word."""
    template = subject.template
    messages = [Message("user", "Is it so?")]
    for answer in _ANSWERS:
        messages += [Message("assistant", answer), Message("user", "And then?")]
    transcript = template.transcript(Conversation(tuple(messages[:-1])))
    if len(transcript.turns) != len(_ANSWERS):
        raise CheckFailedError(
            f"of {len(_ANSWERS)} answers, {len(transcript.turns)} have tokens of their own"
        )
    for turn, answer in zip(transcript.turns, _ANSWERS, strict=True):
        read = template.tokenizer.decode(transcript.token_ids[turn.start : turn.stop])
        if read.strip() != answer:
            raise CheckFailedError(f"the answer {answer!r} is read as {read!r}")
    return f"answers of a word and of more are read whole: {', '.join(map(repr, _ANSWERS))}"


def check_context(subject: Subject) -> str:
    """How many tokens the model can read."""
    context = subject.context
    if context is None:
        return "conversations of any length: nothing bounds its positions"
    return f"conversations of up to {context:,} tokens; longer ones are refused"
