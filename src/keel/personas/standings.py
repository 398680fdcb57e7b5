"""Where each role stands on the axis, with an interval over its questions."""

from __future__ import annotations

import torch

from keel.personas.cells import Cells
from keel.statistics import Variance
from keel.types import AssistantAxis, Interval


def role_standings(cells: Cells, axis: AssistantAxis) -> dict[str, Interval]:
    """Each role's mean projection at the axis' layer, in gap units, with a 95 % interval.

    The interval is over question folds, as clusters: a role is compared with the mean role on the
    same questions, so that what a question does to all is left out (Liang and Zeger 1986,
    Biometrika 73:13, with Student's t). The axis is taken as it is. Roles that answered in one fold
    only are left out.
    """
    layer, counts_RF = axis.layer, cells.counts_NF[1:].double()
    direction_D = axis.direction[layer].double()
    means_RF = (cells.sums_NFLD[1:, :, layer].double() @ direction_D) / counts_RF.clamp_min(1)
    is_there_RF = counts_RF > 0
    others_F = (means_RF * is_there_RF).sum(0) / is_there_RF.sum(0).clamp_min(1)
    shares_RF = counts_RF / counts_RF.sum(1, keepdim=True)
    contrast_RF = means_RF - others_F
    centred_RF = contrast_RF - (contrast_RF * shares_RF).sum(1, keepdim=True)
    moved_RF = torch.where(is_there_RF, shares_RF * centred_RF, 0.0)
    standings = {}
    for row, role in enumerate(cells.roles):
        folds = int(is_there_RF[row].sum())
        if folds < 2:
            continue
        raw = float((means_RF[row] * shares_RF[row]).sum())
        variance = folds / (folds - 1) * float(moved_RF[row].square().sum())
        in_gaps = Variance(variance / float(axis.gap[layer]) ** 2, folds - 1)
        standings[role] = in_gaps.interval(axis.in_gaps(raw, layer))
    return standings
