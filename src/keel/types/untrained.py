"""What models with random weights reach: the null that a run's AUC and d′ are held against."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UntrainedModel:
    """The quality of the axis of one model with random weights, at its own recommended layer."""

    seed: int
    """Draws its weights."""
    layer: int
    auc: float
    """Held out, 0 to 1."""
    d_prime: float
    """Held out."""
    split_half_questions: float
    split_half_roles: float
    cos_pc1: float


@dataclass(frozen=True)
class UntrainedNull:
    """Models of a run's own shape with random weights, extracted on prompts of the run."""

    models: tuple[UntrainedModel, ...]
    """One per seed."""
    roles: int
    """Roles that each answered in, beside the default."""
    questions: int
    answers: int
    """Answers of each model."""
    max_new_tokens: int | None
    """Longest answer; None where the models read the run's answers in place of giving any."""

    @property
    def auc_range(self) -> tuple[float, float]:
        """The least and the greatest AUC."""
        aucs = [model.auc for model in self.models]
        return min(aucs), max(aucs)

    @property
    def d_prime_range(self) -> tuple[float, float]:
        """The least and the greatest d′."""
        values = [model.d_prime for model in self.models]
        return min(values), max(values)
