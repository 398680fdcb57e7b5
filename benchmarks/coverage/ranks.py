"""Studies of single roles: the ranks that they may have, and p where the default is one more.

A row's activations in a question are its own vector, the question's, and noise; they are summed as
a map sums them, without its other measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.random import Generator

from benchmarks.coverage.studies import Known, Statement, Study
from keel.personas.alignment import pc1_alignments
from keel.personas.cells import Cells
from keel.personas.standings import role_standings
from keel.report import rank_roles
from keel.statistics import Floats
from keel.types import AssistantAxis, Interval, ModelIdentity, PersonaVector

_HIDDEN = 48
_DEFAULTS = 5
_COMPONENT = np.eye(_HIDDEN)[0]
_NOISE = (0.15**2 + 0.3**2) ** 0.5
"""Standard deviation of an answer in one dimension, as in the studies of maps."""


def studies() -> Iterator[Study]:
    """Few roles and many."""
    for roles, questions in ((12, 12), (20, 12), (50, 12)):
        words = f"{roles} roles × {questions} questions"
        yield Study("roles", words, partial(_ranked, roles, questions), 50 if roles == 50 else 100)


def _ranked(roles: int, questions: int, rng: Generator) -> Mapping[str, Statement]:
    """Whether ranks hold the true ones, and p of PC1: fewer than 19 roles cannot reach 5 %."""
    own_RD = _own(roles, rng)
    cells = _cells(np.concatenate([0.8 * _COMPONENT[None], own_RD]), questions, rng)
    axis = _axis(cells)
    true_R = own_RD @ axis.direction[0].double().numpy()
    order = np.argsort(true_R)
    stated: dict[str, Statement] = {}
    ranks = _ranks(cells, axis)
    for name, row in (("lowest", order[0]), ("middle", order[roles // 2])):
        truth = 1 + int((true_R > true_R[row]).sum())
        stated[f"ranks of the {name} role"] = Known(Interval(truth, *ranks[f"role{row}"]), truth)
    null = _cells(_own(roles + 1, rng), questions, rng)
    p = pc1_alignments(null)[0].p if roles >= 19 else None
    return {**stated, "p of |cos(axis, PC1)|, the default one more role": p}


def _own(rows: int, rng: Generator) -> Floats:
    along_R = 0.8 * rng.normal(size=rows)
    return np.asarray(along_R[:, None] * _COMPONENT + 0.1 * rng.normal(size=(rows, _HIDDEN)))


def _cells(own_ND: Floats, questions: int, rng: Generator) -> Cells:
    """Of the first row, the default, each question is asked under five prompts."""
    asked_QD = 0.4 * rng.normal(size=(questions, _HIDDEN))
    counts_N = np.array([_DEFAULTS] + [1] * (len(own_ND) - 1))
    noise_NQD = rng.normal(size=(len(own_ND), questions, _HIDDEN))
    noise_NQD *= _NOISE / counts_N[:, None, None] ** 0.5
    sums_NQD = counts_N[:, None, None] * (own_ND[:, None] + asked_QD + noise_NQD)
    sums_NFLD = torch.from_numpy(sums_NQD)[:, :, None].float()
    counts_NF = torch.from_numpy(counts_N)[:, None].expand(-1, questions)
    return Cells(
        tuple(f"role{row}" for row in range(len(own_ND) - 1)),
        sums_NFLD,
        counts_NF,
        torch.ones(1),
        sums_NFLD[:1],
        counts_NF[:1],
    )


def _axis(cells: Cells) -> AssistantAxis:
    means_NLD = cells.means()
    vector_LD = means_NLD[0] - means_NLD[1:].mean(0)
    along_NL = (means_NLD * vector_LD / vector_LD.norm()).sum(-1)
    return AssistantAxis(
        vector=vector_LD,
        layer=0,
        default_projection=along_NL[0],
        role_projection=along_NL[1:].mean(0),
        residual_norm=torch.ones(1),
        identity=ModelIdentity("planted", 1, _HIDDEN),
    )


def _ranks(cells: Cells, axis: AssistantAxis) -> dict[str, tuple[int, int]]:
    """Role -> the ranks that it may have, as the report has them."""
    vectors = [
        PersonaVector(role=role, label="all", vector_LD=means_LD, count=count)
        for means_LD, (role, count) in zip(cells.means()[1:], cells.counts.items(), strict=True)
    ]
    standings = role_standings(cells, axis)
    # A ranking asks no more of a map than these; its other measures take seconds a draw.
    asked = SimpleNamespace(axis=axis, vectors=vectors, standings=standings)
    ranked = rank_roles(cast(Any, asked))
    return {each.role: each.ranks for each in ranked if each.ranks is not None}
