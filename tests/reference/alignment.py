"""|cos(axis, PC1)|, its correction and its null, written plainly: what `keel.personas` must give.

Rows are vectors, the default first; cells are answers' means by row and question fold, one each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def raw_cosine(rows: Array) -> float:
    """|cosine| of the default less the mean role with the first right singular vector."""
    roles = rows[1:]
    axis = rows[0] - roles.mean(0)
    pc1 = np.linalg.svd(roles - roles.mean(0))[2][0]
    return float(abs(axis @ pc1) / np.linalg.norm(axis))


def rank_p(rows: Array) -> float:
    """Share of all rows that are as near to the PC1 of the others as the default is to its own."""
    cosines = [raw_cosine(np.concatenate([rows[n : n + 1], np.delete(rows, n, 0)]))
               for n in range(len(rows))]  # fmt: skip
    return sum(cosine >= cosines[0] - 1e-9 for cosine in cosines) / len(rows)


def corrected_cosine(cells: Array) -> float:
    """The cosine less what noise adds to it and takes from it.

    Noise reduction of the first component as in Yata and Aoshima (2012), Journal of Multivariate
    Analysis 105:193; noise of the axis from how it varies between folds, and with the roles.
    """
    rows = cells.mean(1)
    roles, folds = len(rows) - 1, cells.shape[1]
    centred = rows[1:] - rows[1:].mean(0)
    spectrum = np.linalg.svd(centred, compute_uv=False) ** 2 / (roles - 1)
    pc1 = np.linalg.svd(centred)[2][0]
    true = spectrum[0] - spectrum[1:].sum() / (roles - 2)
    axis = rows[0] - rows[1:].mean(0)
    by_fold = np.stack([cells[0, fold] - cells[1:, fold].mean(0) for fold in range(folds)])
    noise = by_fold.var(0, ddof=1) / folds
    noise_along = (by_fold @ pc1).var(ddof=1) / folds
    along = (axis @ pc1) ** 2 - true / roles - noise_along
    length = axis @ axis - spectrum.sum() / roles - noise.sum()
    return float(np.sqrt(np.clip(along / (length * true / spectrum[0]), 0, 1)))
