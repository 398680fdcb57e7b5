"""Judges that read likelihoods from one of Keel's engines: nothing is sampled or parsed.

`LabelGrader` asks which label is the likeliest reply, `ChannelGrader` which label makes the answer
likeliest, and `LikelihoodJudge` how much a rollout's role prompt explains its words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import torch
from jaxtyping import Float
from torch import Tensor

from keel.engines import Engine, Recording
from keel.errors import ChatTemplateError, UsageError
from keel.judge.prompting import fill_instruction, make_judge_prompt, prompt_hash
from keel.seeds import text_hash
from keel.types import (
    Case,
    Conversation,
    Grader,
    Judgement,
    Label,
    Message,
    Rollout,
    Rubric,
    Verdict,
)

_REPLY = "Label: "
"""Begins every reply, so that the label's own tokens do not run into the chat template's; being
the same for all labels, it weighs nothing."""
_GRID = 11
"""So many numbers of a scale are held against each other: 0, 10, ... 100."""
_BLANKS = ("[the question]", "[the answer]")
"""Stand for a question and an answer of which nothing is known."""
_CHANNEL = "{instruction}\n\nThe next answer is of this kind. {name}: {meaning}"
_NONSENSE = "nonsensical"


@dataclass(frozen=True)
class LabelGrader(Grader):
    """Gives an engine the prompt for judges, and reads how likely each label is as the reply.

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
    """Log-shares of the labels where nothing is known of the conversation."""

    @property
    def name(self) -> str:
        """`labels:MODEL`, with what else decides its verdicts."""
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
            key = f"{rubric.hash} {fill_instruction(case, rubric)}"
            if key not in self._priors:
                question, answer = _BLANKS
                blank = Conversation((Message("user", question), Message("assistant", answer)))
                self._priors[key] = self._log_shares(Case("blank", blank, case.fields), rubric)
            scores_K = scores_K - self._priors[key]
        return verdict_of(case.id, rubric, torch.softmax(scores_K, -1))

    def _log_shares(self, case: Case, rubric: Rubric) -> Float[Tensor, " option"]:
        head = make_judge_prompt(case, rubric).messages
        replies = [_REPLY + name for name in options_of(rubric)]
        read = [Conversation((*head, Message("assistant", reply))) for reply in replies]
        sums = [scores_T.sum() for scores_T in answer_likelihoods(self.engine, read)]
        return torch.log_softmax(torch.stack(sums), -1)


@dataclass(frozen=True)
class ChannelGrader(Grader):
    """Labels an answer by what explains its words best: the label's meaning as a system prompt.

    A small model cannot follow a judge's question, yet it knows how the answers of each kind sound:
    a "noisy channel" (Min et al. 2022, arXiv:2108.04106). Not what a careful reader would say: it
    hears tone, not facts. Of the conversation it is shown the last user message; instruction and
    label replace the system prompt. Tokens of one answer depend on each other; so the sum of their
    log-likelihoods is divided by the root of their number before it becomes a confidence.
    """

    engine: Engine

    @property
    def name(self) -> str:
        """`channel:MODEL`, with a hash of its prompt."""
        hash = text_hash(_CHANNEL, 6)
        return f"channel:{model_name(self.engine)}-{hash}"

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
        answer = Message("assistant", case.conversation.messages[-1].content)
        if not answer.content.strip():  # an empty answer has no likelihood
            if any(label.name == _NONSENSE for label in rubric.labels):
                score = rubric.label(_NONSENSE).score
                return Verdict(case.id, _NONSENSE, score, 1.0, reason="it is empty")
            return Verdict(case.id, status="unparsed", reason="the answer is empty")
        question = [m for m in case.conversation.messages if m.speaker == "user"][-1:]
        instruction = fill_instruction(case, rubric)
        prompts = [
            _CHANNEL.format(instruction=instruction, name=label.name, meaning=label.meaning)
            for label in rubric.labels
        ]
        read = [Conversation((Message("system", p), *question, answer)) for p in prompts]
        likelihoods = answer_likelihoods(self.engine, read)
        scores_K = torch.stack([scores_T.sum() / len(scores_T) ** 0.5 for scores_T in likelihoods])
        return verdict_of(case.id, rubric, torch.softmax(scores_K, -1))


@dataclass(frozen=True)
class LikelihoodJudge:
    """Mean log-likelihood per token of the answer under its role prompt minus under none.

    Needs no other model and no service. It tells answers that took something from their role from
    those that ignored it; it does not tell good acting from bad. Rollouts of the default play no
    role: they are labelled `unjudged`.
    """

    engine: Engine
    threshold: float = 0.05
    """Nats per token an answer must gain from its role prompt to count as playing the role: over
    60 tokens, odds of twenty to one that the role prompt was there."""

    @property
    def name(self) -> str:
        """`likelihood` with its threshold."""
        return f"likelihood-{self.threshold:g}"

    def judge(self, rollouts: Sequence[Rollout]) -> Iterator[Judgement]:
        """One judgement per rollout; the score is in nats per token."""
        playing = []
        for rollout in rollouts:
            if rollout.prompt.is_default:
                yield Judgement(rollout.prompt.id, "unjudged")
            elif not rollout.token_ids:
                yield Judgement(rollout.prompt.id, "none", status="unparsed")
            else:
                playing.append(rollout)
        with_role, without = (
            [float(scores_T.mean()) for scores_T in answer_likelihoods(self.engine, conversations)]
            for conversations in (
                [rollout.conversation for rollout in playing],
                [rollout.conversation.without_system() for rollout in playing],
            )
        )
        for rollout, under_role, under_none in zip(playing, with_role, without, strict=True):
            gain = under_role - under_none
            label: Label = "fully" if gain >= self.threshold else "none"
            yield Judgement(rollout.prompt.id, label, gain)


def options_of(rubric: Rubric) -> list[str]:
    """The options of a rubric: its labels, or numbers spread over its scale."""
    if rubric.labels:
        return [label.name for label in rubric.labels]
    last = len(rubric.scale) - 1
    steps = min(last, _GRID - 1)
    return [str(rubric.scale[round(last * step / steps)]) for step in range(steps + 1)]


def answer_likelihoods(
    engine: Engine, conversations: Sequence[Conversation]
) -> list[Float[Tensor, " token"]]:
    """Log-likelihood of each token of each last answer, in order.

    Raises ChatTemplateError where an answer has no tokens of its own.
    """
    likelihoods = [torch.zeros(0)] * len(conversations)
    for reading in engine.read(conversations, recording=Recording(log_likelihood=True)):
        if reading.turns:
            scores_T = reading.turns[-1].log_likelihood_T
            assert scores_T is not None
            likelihoods[reading.index] = scores_T.float()
    for conversation, scores_T in zip(conversations, likelihoods, strict=True):
        if not len(scores_T):
            raise ChatTemplateError(
                f"{conversation.messages[-1].content!r} has no tokens of its own in this model's "
                "chat template, so the model cannot judge by it; take another judge"
            )
    return likelihoods


def model_name(engine: Engine) -> str:
    """The last part of the model's id, and the beginning of its weights' hash."""
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
    grid_K = torch.tensor([float(name) for name in names])
    mean = float((shares_K * grid_K).sum())
    nearest = int((grid_K - mean).abs().argmin())
    return Verdict(case_id, str(round(mean)), mean, float(shares_K[nearest]), reason=shown)
