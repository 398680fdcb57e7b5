"""Any engine of Keel's as judge, by the probabilities of the labels: nothing sampled or parsed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import torch
from jaxtyping import Float
from torch import Tensor

from keel.engines import Engine, Recording
from keel.errors import ChatTemplateError
from keel.judge.prompting import fill_instruction, make_judge_prompt, prompt_hash
from keel.types import Case, Conversation, Message, Rubric, Verdict

_REPLY = "Label: "
"""Begins every reply, so that the label's own tokens do not run into the chat template's; being
the same for all labels, it weighs nothing."""
_GRID = 11
"""So many numbers of a scale are held against each other: 0, 10, ... 100."""
_FREE = ("[the question]", "[the answer]")
"""Stand for a question and an answer of which nothing is known."""


@dataclass(frozen=True)
class LabelGrader:
    """Puts the question that other judges are asked, and reads how likely each label is as reply.

    A model favours some labels whatever it reads. So each label's probability is divided by the
    one that it has where question and answer are blanks, and all are scaled to sum to 1
    (contextual calibration, Zhao et al. 2021, arXiv:2102.09690). One case is read at a time: its
    verdict then never depends on which other cases were left to judge.
    """

    engine: Engine
    is_calibrated: bool = True
    """Whether what the model favours anyway is taken out."""
    _priors: dict[str, Float[Tensor, " option"]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def name(self) -> str:
        """`labels:MODEL`, with what else decides what it says."""
        way = "" if self.is_calibrated else "-uncalibrated"
        return f"labels:{model_name(self.engine)}{way}-{prompt_hash()[:6]}"

    def grade(self, cases: Sequence[Case], rubric: Rubric) -> Iterator[Verdict]:
        """One verdict per case, in order; confidences are the labels' probabilities.

        Raises UsageError, before anything is read, for a case that does not fit the rubric.
        """
        for case in cases:
            make_judge_prompt(case, rubric)
        return (self._graded(case, rubric) for case in cases)

    def _graded(self, case: Case, rubric: Rubric) -> Verdict:
        scores_K = self._log_shares(case, rubric)
        if self.is_calibrated:
            scores_K = scores_K - self._prior(case, rubric)
        return verdict_of(case.id, rubric, torch.softmax(scores_K, -1))

    def _prior(self, case: Case, rubric: Rubric) -> Float[Tensor, " option"]:
        """Log-shares of the labels where nothing is known of the conversation."""
        key = f"{rubric.hash} {fill_instruction(case, rubric)}"
        if key not in self._priors:
            asked, said = _FREE
            blank = Conversation((Message("user", asked), Message("assistant", said)))
            self._priors[key] = self._log_shares(Case("blank", blank, case.fields), rubric)
        return self._priors[key]

    def _log_shares(self, case: Case, rubric: Rubric) -> Float[Tensor, " option"]:
        prompt = make_judge_prompt(case, rubric)
        user = f"{prompt.material}\n\n{prompt.wanted}"
        head = (Message("system", prompt.system), Message("user", user))
        replies = [_REPLY + name for name in options_of(rubric)]
        read = [Conversation((*head, Message("assistant", reply))) for reply in replies]
        sums = [scores_T.sum() for scores_T in answer_likelihoods(self.engine, read)]
        return torch.log_softmax(torch.stack(sums), -1)


def options_of(rubric: Rubric) -> list[str]:
    """What a judge chooses from: the labels, or numbers spread over the scale."""
    return [one.name for one in rubric.labels] or [str(number) for number in _grid(rubric)]


def answer_likelihoods(
    engine: Engine, conversations: Sequence[Conversation]
) -> list[Float[Tensor, " token"]]:
    """Log-likelihood of each token of each last answer, in order.

    Raises ChatTemplateError where an answer has no tokens of its own.
    """
    found = [torch.zeros(0)] * len(conversations)
    for reading in engine.read(conversations, recording=Recording(log_likelihood=True)):
        if reading.turns:
            scores_T = reading.turns[-1].log_likelihood_T
            assert scores_T is not None
            found[reading.index] = scores_T.float()
    for conversation, scores_T in zip(conversations, found, strict=True):
        if not len(scores_T):
            raise ChatTemplateError(
                f"{conversation.messages[-1].content!r} has no tokens of its own in this model's "
                "chat template, so the model cannot judge by it; take another judge"
            )
    return found


def model_name(engine: Engine) -> str:
    """What tells an engine's model from others: its last name, and its weights' hash."""
    identity = engine.identity
    weights = f"@{identity.weights_hash[:6]}" if identity.weights_hash else ""
    return f"{PurePath(identity.model_id).name}{weights}"


def verdict_of(case_id: str, rubric: Rubric, shares_K: Float[Tensor, " option"]) -> Verdict:
    """The likeliest label with its probability; on a scale the expectation."""
    if not bool(shares_K.isfinite().all()):
        return Verdict(case_id, status="failed", reason="the model gave no finite likelihood")
    names = options_of(rubric)
    best = int(shares_K.argmax())
    shown = ", ".join(f"{n} {float(s):.2f}" for n, s in zip(names, shares_K, strict=True))
    if rubric.labels:
        label = rubric.labels[best]
        return Verdict(case_id, label.name, label.score, float(shares_K[best]), reason=shown)
    grid_K = torch.tensor(_grid(rubric), dtype=torch.float32)
    mean = float((shares_K * grid_K).sum())
    nearest = int((grid_K - mean).abs().argmin())
    return Verdict(case_id, str(round(mean)), mean, float(shares_K[nearest]), reason=shown)


def _grid(rubric: Rubric) -> list[int]:
    """Whole numbers from one end of the scale to the other, evenly spread."""
    assert rubric.low is not None
    assert rubric.high is not None
    steps = min(rubric.high - rubric.low, _GRID - 1)
    width = rubric.high - rubric.low
    return [rubric.low + round(width * step / steps) for step in range(steps + 1)]
