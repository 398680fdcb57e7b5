"""How much of the variance of chats persona space explains.

Lu et al. 2026, §2.1.3, of a study's own turns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keel.statistics import LEVEL, Codes, Floats, jackknifed
from keel.types import Interval, SpaceShare

_RANDOM = 99
"""Random subspaces behind the null."""


def space_shares(
    arm: str,
    means_ND: Floats,
    people: Sequence[str],
    components_KD: Floats,
    counts: Sequence[int],
    *,
    seed: int = 0,
) -> tuple[SpaceShare, ...]:
    """The share of the variance of `means_ND` that lies along the first `counts` components.

    Each row is a turn's mean activation; components are orthonormal rows.

    The interval leaves people out in turn, the null takes as many random directions. () for fewer
    than two people, or turns that do not vary.
    """
    codes_N: Codes = np.unique(np.array(people, dtype=object), return_inverse=True)[1].reshape(-1)
    if not len(means_ND) or codes_N.max() < 1 or not np.ptp(means_ND, axis=0).any():
        return ()
    chance = np.random.default_rng(seed)
    centred_ND = means_ND - means_ND.mean(0)
    total = float((centred_ND**2).sum())
    own_D = np.linalg.svd(centred_ND, compute_uv=False) ** 2
    totals_P = _without_each(centred_ND, codes_N)
    shares = []
    for count in counts:
        along_NK = centred_ND @ components_KD[:count].T
        random = [
            float(((centred_ND @ _random_basis(chance, means_ND.shape[1], count)) ** 2).sum())
            for _ in range(_RANDOM)
        ]
        share = float((along_NK**2).sum()) / total
        interval = _interval(share, _without_each(along_NK, codes_N), totals_P)
        null95 = float(np.percentile(random, 95)) / total
        most = float(own_D[:count].sum()) / total
        shares.append(SpaceShare(arm, count, interval, null95, most, len(means_ND)))
    return tuple(shares)


def _without_each(centred_NK: Floats, codes_N: Codes) -> Floats:
    """Sum of squares about their own mean of the turns that are left without each person."""
    sizes_P = np.bincount(codes_N)
    squares_P = np.bincount(codes_N, (centred_NK**2).sum(1))
    sums_PK = np.stack([centred_NK[codes_N == code].sum(0) for code in range(len(sizes_P))])
    # All sum to 0, so that the others' sum is the person's own, turned.
    moved_P = (sums_PK**2).sum(1) / (len(codes_N) - sizes_P)
    left_P: Floats = squares_P.sum() - squares_P - moved_P
    return left_P


def _interval(share: float, along_P: Floats, totals_P: Floats) -> Interval:
    """The jackknife's interval over people, by Student's t on log odds.

    0 to 1 where a share that is left has none.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        odds_P = np.log(along_P / (totals_P - along_P))
        odds = np.log(share / (1 - share)) if share < 1 else np.inf
    if not np.isfinite(np.append(odds_P, odds)).all():
        return Interval(share, 0.0, 1.0)
    variance = jackknifed([odds_P])
    reach = variance.quantile(LEVEL) * variance.value**0.5
    low, high = (float(1 / (1 + np.exp(-(odds + side)))) for side in (-reach, reach))
    return Interval(share, min(share, low), max(share, high))


def _random_basis(chance: np.random.Generator, size: int, count: int) -> Floats:
    """Orthonormal columns in random directions."""
    basis_DK: Floats = np.linalg.qr(chance.standard_normal((size, count)))[0]
    return basis_DK
