"""An engine as judge, asked the other way round: which label makes the answer likeliest?

A small model cannot follow a judge's question, yet it knows how the answers of each kind sound.
So it is told the kind, and the answer's own likelihood is read (a "noisy channel", as in Min et
al. 2022, arXiv:2108.04106).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from keel.engines import Engine
from keel.errors import UsageError
from keel.judge.labels import answer_likelihoods, model_name, verdict_of
from keel.judge.prompting import fill_instruction, make_judge_prompt
from keel.types import Case, Conversation, Message, Rubric, RubricLabel, Verdict

_TOLD = "{instruction}\n\nThe next answer is of this kind. {name}: {meaning}"
_NONSENSE = "nonsensical"


@dataclass(frozen=True)
class ChannelGrader:
    """Labels an answer by what explains its words best: the label's meaning as a system prompt.

    Not what a careful reader would say: it hears tone, not facts. Of the conversation it is shown
    the last user message; the system prompt's place is taken by instruction and label.
    Tokens of one answer lean on each other; so the sum of their log-likelihoods is divided by the
    root of their number before it becomes a confidence.
    """

    engine: Engine

    @property
    def name(self) -> str:
        """`channel:MODEL`, with a hash of what it is told."""
        told = hashlib.sha256(_TOLD.encode()).hexdigest()[:6]
        return f"channel:{model_name(self.engine)}-{told}"

    def grade(self, cases: Sequence[Case], rubric: Rubric) -> Iterator[Verdict]:
        """One verdict per case, in order. Raises UsageError for a rubric with a scale."""
        if not rubric.labels:
            raise UsageError(
                f"rubric {rubric.name!r} has a scale, and the judge {self.name} weighs labels; "
                "take another judge, e.g. self or openai:MODEL"
            )
        for case in cases:
            make_judge_prompt(case, rubric)
        return (self._graded(case, rubric) for case in cases)

    def _graded(self, case: Case, rubric: Rubric) -> Verdict:
        answer = case.conversation.messages[-1]
        if not answer.content.strip():
            return _of_nothing(case, rubric)
        asked = [m for m in case.conversation.messages if m.speaker == "user"][-1:]
        said = Message("assistant", answer.content)
        instruction = fill_instruction(case, rubric)
        heads = [Message("system", _told(instruction, one)) for one in rubric.labels]
        read = [Conversation((head, *asked, said)) for head in heads]
        found = answer_likelihoods(self.engine, read)
        scores_K = torch.stack([scores_T.sum() / len(scores_T) ** 0.5 for scores_T in found])
        return verdict_of(case.id, rubric, torch.softmax(scores_K, -1))


def _told(instruction: str, label: RubricLabel) -> str:
    return _TOLD.format(instruction=instruction, name=label.name, meaning=label.meaning)


def _of_nothing(case: Case, rubric: Rubric) -> Verdict:
    """An empty answer has no likelihood."""
    if any(one.name == _NONSENSE for one in rubric.labels):
        score = rubric.label(_NONSENSE).score
        return Verdict(case.id, _NONSENSE, score, 1.0, reason="it is empty")
    return Verdict(case.id, status="unparsed", reason="the answer is empty")
