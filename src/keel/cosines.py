"""Cosines of directions that are known with noise: the noise taken out, with an interval.

Noise lengthens every estimated direction, so a plain cosine is too near 0. Here products and
squared lengths come from pairs of different question folds, whose noise is independent (Spearman
1904, American Journal of Psychology 15:72, corrects correlations to the same end). Knows folds of
questions and roles, nothing of models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from keel.statistics import Floats, Variance, jackknifed
from keel.types import Interval


@dataclass(frozen=True)
class FoldedVector:
    """One direction, from each fold of the questions."""

    folds_FD: Float[Tensor, "fold hidden"]
    weight_F: Float[Tensor, " fold"]
    """How much each fold counts in the whole; 0 where it has no answers."""
    roles_RD: Float[Tensor, "role hidden"] | None = None
    """The role vectors whose mean was taken off, if roles are drawn from many."""
    role_spread: float = 0.0
    """Variance of those roles without noise, summed over dimensions."""

    def regrouped(self, folds: int) -> FoldedVector:
        """In fewer folds, of which the number of folds is a multiple."""
        weight_GF = self.weight_F.double().reshape(-1, folds)
        folds_GFD = self.folds_FD.double().nan_to_num(0).reshape(-1, folds, self.folds_FD.shape[-1])
        total_F = weight_GF.sum(0)
        folds_FD = (folds_GFD * weight_GF[..., None]).sum(0) / total_F.clamp_min(1e-30)[:, None]
        return FoldedVector(folds_FD, total_F, self.roles_RD, self.role_spread)

    @property
    def whole(self) -> Float[Tensor, " hidden"]:
        """The direction from all folds."""
        return self.weight_F @ self.folds_FD / self.weight_F.sum()

    @property
    def about_mean_RD(self) -> Float[Tensor, "role hidden"]:
        """Role vectors, less their mean."""
        assert self.roles_RD is not None
        roles_RD = self.roles_RD.double()
        return roles_RD - roles_RD.mean(0)


def noise_free_cosine(first: FoldedVector, second: FoldedVector) -> Interval:
    """Cosine of two directions as without noise, about other questions, answers and roles.

    The interval is the jackknife's over folds, the same for both, and roles, with Student's t. It
    is −1 to 1 where either direction cannot be told from noise. Roles enter with their answers'
    noise, which the folds hold, too: so it is a little wide.
    """
    folds = math.gcd(len(first.weight_F), len(second.weight_F))
    first, second = first.regrouped(folds), second.regrouped(folds)
    kept_SF = np.concatenate([np.ones((1, folds)), 1 - np.eye(folds)])
    same_role = _role_product(first, second)
    product_S = _products(first, second, kept_SF) - same_role
    first_S = _products(first, first, kept_SF) - _role_noise(first)
    second_S = _products(second, second, kept_SF) - _role_noise(second)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine_S = product_S / np.sqrt(np.where((first_S > 0) & (second_S > 0), first_S, np.nan))
        cosine_S = cosine_S / np.sqrt(second_S)
    if not np.isfinite(cosine_S).all():
        plain = torch.nn.functional.cosine_similarity(first.whole, second.whole, dim=0)
        return Interval(float(plain), -1.0, 1.0)
    value = float(cosine_S[0])
    left_out = jackknifed([cosine_S[1:]])
    twice = _counted_twice(first, second, value, (first_S[0], second_S[0]))
    parts = [Variance(max(left_out.value - twice, left_out.value / 2), left_out.freedom)]
    influence_R = _role_influences(first, second, value, (first_S[0], second_S[0]))
    if influence_R is not None:
        count = len(influence_R)
        parts.append(Variance(float(influence_R.var(ddof=1)) / count, count - 1))
    total = sum(part.value for part in parts)
    spread = sum(part.value**2 / part.freedom for part in parts)
    freedom = total**2 / spread if spread > 0 else folds - 1.0
    around = Variance(total, freedom).interval(value)
    ends = (around.value, around.low, around.high)
    return Interval(*(max(-1.0, min(1.0, end)) for end in ends))


def _counted_twice(
    first: FoldedVector, second: FoldedVector, value: float, squares: tuple[float, float]
) -> float:
    """What leaving out folds counts twice: the variance that is of pairs of folds alone.

    Efron and Stein 1981 show that the jackknife is too large by it. It is what remains of how each
    pair moves the cosine, less what either fold moves it by itself.
    """
    (own_FD, other_FD), (own, other) = (first.folds_FD, second.folds_FD), squares
    folds = len(own_FD)
    if folds < 4:
        return 0.0
    product_FF = own_FD @ other_FD.T
    moved_FF = (product_FF + product_FF.T) / 2 / (own * other) ** 0.5 - value / 2 * (
        own_FD @ own_FD.T / own + other_FD @ other_FD.T / other
    )
    apart_FF = ~torch.eye(folds, dtype=torch.bool)
    mean = moved_FF[apart_FF].mean()
    own_F = (moved_FF * apart_FF).sum(1) / (folds - 1)
    main_F = (own_F - mean) * (folds - 1) / (folds - 2)
    left_FF = (moved_FF - mean - main_F[:, None] - main_F) * apart_FF
    return float(2 * left_FF.square().sum() / (folds * (folds - 3)) / (folds * (folds - 1)))


def _products(first: FoldedVector, second: FoldedVector, kept_SF: Floats) -> Floats:
    """⟨first, second⟩ over pairs of different folds, of all that are kept."""
    gram_FF = (first.folds_FD @ second.folds_FD.T).numpy()
    first_SF, second_SF = (kept_SF * each.weight_F.numpy() for each in (first, second))
    pairs_SFF = first_SF[:, :, None] * second_SF[:, None] * (1 - np.eye(len(gram_FF)))
    total_S = pairs_SFF.sum((1, 2))
    product_S = (pairs_SFF * gram_FF).sum((1, 2))
    return np.asarray(product_S / np.where(total_S > 0, total_S, np.nan))


def _role_noise(vector: FoldedVector) -> float:
    """What few roles add to the squared length."""
    return 0.0 if vector.roles_RD is None else vector.role_spread / len(vector.roles_RD)


def _role_product(first: FoldedVector, second: FoldedVector) -> float:
    """What the same few roles in both add to the product.

    No more than their spreads allow: two readings of the same answers share their noise, too.
    """
    if first.roles_RD is None or second.roles_RD is None:
        return 0.0
    count = len(first.roles_RD)
    most = float(max(0.0, first.role_spread * second.role_spread) ** 0.5)
    shared = float((first.about_mean_RD * second.about_mean_RD).sum()) / (count - 1)
    return max(-most, min(most, shared)) / count


def _role_influences(
    first: FoldedVector, second: FoldedVector, value: float, squares: tuple[float, float]
) -> Floats | None:
    """How each role moves the cosine; None where neither direction has roles."""
    influence_R: Floats | None = None
    lengths = squares[0] ** 0.5, squares[1] ** 0.5
    for own, other, own_length, other_length in (
        (first, second, *lengths), (second, first, *reversed(lengths))
    ):  # fmt: skip
        if own.roles_RD is None:
            continue
        gradient_D = other.whole / (own_length * other_length) - value * own.whole / own_length**2
        moved_R = -(own.about_mean_RD @ gradient_D).numpy()
        influence_R = moved_R if influence_R is None else influence_R + moved_R
    return influence_R
