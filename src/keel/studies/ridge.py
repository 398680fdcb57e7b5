"""Ridge regression whose predictions are all of rows that it was not fitted on.

Many targets at once cost little more than one, so a null of permuted targets is nearly free: what
takes long, the eigenvectors of a fold's features, is shared. Knows numbers, nothing of messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keel.statistics import Codes, Floats

Mask = NDArray[np.bool_]

ALPHAS: Floats = np.geomspace(0.01, 100.0, 9)
"""Penalties to choose from, for features of unit length."""
_INNER_FOLDS = 4


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of every row by what was fitted without its fold; a column per target."""

    predicted_NY: Floats
    mean_NY: Floats
    """Mean of the target over the rows that the prediction was fitted on."""

    def r2(self, targets_NY: Floats) -> Floats:
        """1 − squared errors of the predictions / those of the means, for each target."""
        errors_Y = ((targets_NY - self.predicted_NY) ** 2).sum(0)
        spread_Y: Floats = ((targets_NY - self.mean_NY) ** 2).sum(0)
        r2_Y: Floats = 1 - errors_Y / np.maximum(spread_Y, 1e-30)
        return r2_Y


def deal_folds(groups_N: Codes, strata_N: Codes, folds: int) -> Codes:
    """A fold for each row, shared by its group; each fold gets groups of every stratum."""
    fold_of: dict[int, int] = {}
    for stratum in np.unique(strata_N):
        for rank, group in enumerate(np.unique(groups_N[strata_N == stratum])):
            fold_of.setdefault(int(group), rank % folds)
    return np.array([fold_of[int(group)] for group in groups_N], dtype=np.intp)


def ridge_out_of_fold(
    features_NP: Floats, targets_NY: Floats, folds_N: Codes, groups_N: Codes, strata_N: Codes
) -> OutOfFold:
    """Ridge predictions of every fold from the others.

    Each target's penalty is chosen by inner folds of whole groups. Features are centred by the
    training rows, and not scaled.
    """
    predicted_NY, mean_NY = np.zeros_like(targets_NY), np.zeros_like(targets_NY)
    for fold in np.unique(folds_N):
        held_N = folds_N == fold
        x_NP, y_NY = features_NP[~held_N], targets_NY[~held_N]
        inner_N = deal_folds(groups_N[~held_N], strata_N[~held_N], _INNER_FOLDS)
        alpha_Y = ALPHAS[_best(x_NP, y_NY, inner_N)]
        fit = _Fit.of(x_NP, y_NY)
        predicted_NY[held_N] = fit.predict(features_NP[held_N], alpha_Y)
        mean_NY[held_N] = fit.mean_Y
    return OutOfFold(predicted_NY, mean_NY)


def ridge_in_sample(
    features_NP: Floats, targets_NY: Floats, groups_N: Codes, strata_N: Codes
) -> Floats:
    """R² of predictions of the very rows that were fitted, for each target: too high."""
    inner_N = deal_folds(groups_N, strata_N, _INNER_FOLDS)
    fit = _Fit.of(features_NP, targets_NY)
    alpha_Y = ALPHAS[_best(features_NP, targets_NY, inner_N)]
    predicted_NY = fit.predict(features_NP, alpha_Y)
    return OutOfFold(predicted_NY, np.broadcast_to(fit.mean_Y, targets_NY.shape)).r2(targets_NY)


def _best(x_NP: Floats, y_NY: Floats, inner_N: Codes) -> Codes:
    """Which penalty has the least squared error over inner folds, for each target."""
    errors_AY = np.zeros((len(ALPHAS), y_NY.shape[1]))
    for held_N in _folds(inner_N):
        fit = _Fit.of(x_NP[~held_N], y_NY[~held_N])
        for row, predicted_NY in enumerate(fit.predictions(x_NP[held_N], ALPHAS)):
            errors_AY[row] += ((y_NY[held_N] - predicted_NY) ** 2).sum(0)
    best_Y: Codes = np.argmin(errors_AY, axis=0)
    return best_Y


def _folds(folds_N: Codes) -> Iterator[Mask]:
    """Rows of each fold, of those that leave others to fit on."""
    for fold in np.unique(folds_N):
        held_N = folds_N == fold
        if not held_N.all():
            yield held_N


@dataclass(frozen=True)
class _Fit:
    """A fit in the eigenvectors of its features, for any penalty."""

    centre_P: Floats
    mean_Y: Floats
    values_P: Floats
    vectors_PP: Floats
    weights_PY: Floats
    """Features times targets, in eigenvectors."""

    @classmethod
    def of(cls, x_NP: Floats, y_NY: Floats) -> _Fit:
        centre_P, mean_Y = x_NP.mean(0), y_NY.mean(0)
        centred_NP = x_NP - centre_P
        values_P, vectors_PP = np.linalg.eigh(centred_NP.T @ centred_NP)
        weights_PY = vectors_PP.T @ (centred_NP.T @ (y_NY - mean_Y))
        return cls(centre_P, mean_Y, np.maximum(values_P, 0), vectors_PP, weights_PY)

    def predict(self, x_NP: Floats, alpha_Y: Floats) -> Floats:
        """Predictions, each target by its own penalty."""
        along_NP = (x_NP - self.centre_P) @ self.vectors_PP
        predicted_NY: Floats = self.mean_Y + along_NP @ (
            self.weights_PY / (self.values_P[:, None] + alpha_Y)
        )
        return predicted_NY

    def predictions(self, x_NP: Floats, alphas: Floats | Sequence[float]) -> Iterator[Floats]:
        """Predictions of all targets by one penalty after the other."""
        along_NP = (x_NP - self.centre_P) @ self.vectors_PP
        for alpha in alphas:
            yield self.mean_Y + along_NP @ (self.weights_PY / (self.values_P[:, None] + alpha))
