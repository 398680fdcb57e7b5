"""How much of the variance of chats persona space explains: Lu et al. 2026, §2.1.3, of a study's
own turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keel.statistics import Codes, Floats, percentile_interval
from keel.types import SpaceShare

_DRAWS = 1000
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
    """The share of the variance of `means_ND`, a turn's mean activation each, that lies along the
    first `counts` components, which are orthonormal rows.

    The interval resamples people, the null takes as many random directions. () for fewer than two
    people, or turns that do not vary.
    """
    codes_N: Codes = np.unique(np.array(people, dtype=object), return_inverse=True)[1].reshape(-1)
    if not len(means_ND) or codes_N.max() < 1 or not np.ptp(means_ND, axis=0).any():
        return ()
    chance = np.random.default_rng(seed)
    centred_ND = means_ND - means_ND.mean(0)
    total = float((centred_ND**2).sum())
    own_D = np.linalg.svd(centred_ND, compute_uv=False) ** 2
    people_count = int(codes_N.max()) + 1
    size_P = np.bincount(codes_N).astype(float)
    drawn_SP = chance.multinomial(people_count, [1 / people_count] * people_count, size=_DRAWS)
    sizes_S = drawn_SP @ size_P
    # The variance of resampled people is about their own mean.
    sum_PD = np.stack([centred_ND[codes_N == code].sum(0) for code in range(people_count)])
    squares_P = np.bincount(codes_N, (centred_ND**2).sum(1))
    totals_S = drawn_SP @ squares_P - ((drawn_SP @ sum_PD) ** 2).sum(1) / sizes_S
    shares = []
    for count in counts:
        basis_DK = components_KD[:count].T
        along_NK = centred_ND @ basis_DK
        along_P = np.bincount(codes_N, (along_NK**2).sum(1))
        inside_S = drawn_SP @ along_P - ((drawn_SP @ (sum_PD @ basis_DK)) ** 2).sum(1) / sizes_S
        random = [
            float(((centred_ND @ _random_basis(chance, means_ND.shape[1], count)) ** 2).sum())
            for _ in range(_RANDOM)
        ]
        interval = percentile_interval(
            float((along_NK**2).sum()) / total, inside_S / np.maximum(totals_S, 1e-30)
        )
        null95 = float(np.percentile(random, 95)) / total
        most = float(own_D[:count].sum()) / total
        shares.append(SpaceShare(arm, count, interval, null95, most, len(means_ND)))
    return tuple(shares)


def _random_basis(chance: np.random.Generator, size: int, count: int) -> Floats:
    """Orthonormal columns in random directions."""
    basis_DK: Floats = np.linalg.qr(chance.standard_normal((size, count)))[0]
    return basis_DK
