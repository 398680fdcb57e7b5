"""The likelihood judge: how role-specific is an answer, by the model's own account?

Needs no other model and no service. It measures how much the role prompt explains the words of
the answer, so it tells answers that took something from their role from those that ignored it;
it does not tell good acting from bad.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keel.engines import Engine, Recording
from keel.types import Conversation, Judgement, Label, Rollout


@dataclass(frozen=True)
class LikelihoodJudge:
    """Mean log-likelihood per token of the answer under its role prompt minus under none.

    Rollouts of the default play no role: they are labelled `unjudged`.
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
        with_role = self._likelihoods([r.conversation for r in playing])
        without = self._likelihoods([r.conversation.without_system() for r in playing])
        for rollout, under_role, under_none in zip(playing, with_role, without, strict=True):
            gain = under_role - under_none
            label: Label = "fully" if gain >= self.threshold else "none"
            yield Judgement(rollout.prompt.id, label, gain)

    def _likelihoods(self, conversations: Sequence[Conversation]) -> list[float]:
        """Mean log-likelihood per token of each last answer, in order."""
        means = [0.0] * len(conversations)
        for reading in self.engine.read(conversations, recording=Recording(log_likelihood=True)):
            scores_T = reading.turns[-1].log_likelihood_T
            assert scores_T is not None
            means[reading.index] = float(scores_T.mean())
        return means
