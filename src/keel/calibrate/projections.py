"""Per-token projections of answers on the axis, and their distribution at every layer."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from keel.engines import Engine, Probe, Recording
from keel.errors import TooFewSamplesError
from keel.seeds import shuffle_key
from keel.settings import CalibrateSettings
from keel.types import AssistantAxis, LayerCalibration, Rollout

_PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
_BINS = 60


@dataclass(frozen=True)
class Projections:
    """Per-token projections of content tokens on the axis at every layer, and per response."""

    default_NL: Float[Tensor, "default_token layer"]
    roles_NL: Float[Tensor, "role_token layer"]
    default_means_NL: Float[Tensor, "default_response layer"]
    roles_means_NL: Float[Tensor, "role_response layer"]
    pool_NL: Float[Tensor, "pooled_token layer"] | None = None
    """Tokens of which percentiles are taken, where these are not the default's and the roles'."""

    @property
    def pooled_NL(self) -> Float[Tensor, "token layer"]:
        """Tokens of which percentiles are taken: else default and roles, as they were read."""
        return torch.cat([self.default_NL, self.roles_NL]) if self.pool_NL is None else self.pool_NL

    def percentile(self, layer: int, percentile: float) -> float:
        """Assistant-ward percentile of the pooled per-token projections, in float32."""
        return float(np.percentile(self.pooled_NL[:, layer].numpy(), percentile))

    def share_under(self, layer: int, value: float) -> float:
        """Share (0 to 1) of pooled tokens that project below a value."""
        return float((self.pooled_NL[:, layer] < value).float().mean())

    def default_share_under(self, layer: int, value: float) -> float:
        """Share (0 to 1) of the default's answers whose mean projects below a value."""
        return float((self.default_means_NL[:, layer] < value).float().mean())


def choose_rollouts(rollouts: Iterable[Rollout], count: int, seed: int) -> list[Rollout]:
    """A seeded sample that does not depend on order; memory holds no more than the sample."""
    usable = (r for r in rollouts if r.token_ids)
    return heapq.nsmallest(count, usable, key=lambda r: shuffle_key(seed, r.prompt.id))


def spread_over_questions(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The answers in an order whose every beginning is of as many questions as it can be.

    Answers to one question are alike, so a mean over a few answers is known best so.
    """
    seen = Counter[int]()
    ranked = []
    for rollout in rollouts:
        question = rollout.prompt.question_index
        ranked.append((seen[question], rollout))
        seen[question] += 1
    return [rollout for _, rollout in sorted(ranked, key=lambda pair: pair[0])]


@dataclass(frozen=True)
class CalibrationSample:
    """Answers that a calibration reads."""

    default: tuple[Rollout, ...]
    roles: tuple[Rollout, ...]
    pool: tuple[Rollout, ...] | None = None
    """Those of which percentiles are taken; None: of default and roles."""


def choose_calibration(
    default: Iterable[Rollout],
    roles: Iterable[Rollout],
    traits: Iterable[Rollout],
    settings: CalibrateSettings,
) -> CalibrationSample:
    """As many default as role answers; and, as in the paper, a sample of all as often as they fall.

    Raises TooFewSamplesError for the paper's pool where there is no answer of a trait.
    """
    count, seed = settings.rollouts, settings.seed
    # What is drawn of all is of the first to be drawn of its kind, so this holds both samples.
    kinds = [choose_rollouts(kind, 2 * count, seed) for kind in (default, roles, traits)]
    pool = None
    if settings.pool == "paper":
        if not kinds[2]:
            raise TooFewSamplesError(
                "the run has no answers of traits, which the paper's pool holds; extract them "
                "(--what both), or calibrate with --pool balanced"
            )
        pool = tuple(choose_rollouts(chain(*kinds), 2 * count, seed))
    return CalibrationSample(tuple(kinds[0][:count]), tuple(kinds[1][:count]), pool)


def read_projections(
    engine: Engine,
    axis: AssistantAxis,
    default: Sequence[Rollout],
    roles: Sequence[Rollout],
    pool: Sequence[Rollout] | None = None,
) -> Projections:
    """Per-token projections of rollouts at every layer, in one forward pass each.

    Percentiles are of the `pool`, or of default and roles together without one. Raises
    TooFewSamplesError when default or roles are empty.
    """
    if not default or not roles:
        raise TooFewSamplesError(
            f"calibration has {len(default)} default and {len(roles)} role answers; needs both: "
            "extract with more questions"
        )
    probes = tuple(Probe(layer, v) for layer, v in enumerate(axis.direction))
    rollouts = {r.prompt.id: r for r in (*default, *roles, *(pool or ()))}
    conversations = [r.conversation for r in rollouts.values()]
    tokens: list[Tensor] = [torch.empty(0)] * len(conversations)
    for reading in engine.read(conversations, recording=Recording(probes=probes)):
        projections_TK = reading.turns[-1].projections_TK
        assert projections_TK is not None
        tokens[reading.index] = projections_TK.float()
    by_id = dict(zip(rollouts, tokens, strict=True))
    first, rest = ([by_id[r.prompt.id] for r in group] for group in (default, roles))
    return Projections(
        torch.cat(first),
        torch.cat(rest),
        _means(first),
        _means(rest),
        None if pool is None else torch.cat([by_id[r.prompt.id] for r in pool]),
    )


def layer_calibration(
    projections: Projections, layer: int, percentiles: Iterable[int] = ()
) -> LayerCalibration:
    """The distribution at one layer as numbers to keep and to draw."""
    wanted = sorted({*_PERCENTILES, *percentiles})
    pooled = projections.pooled_NL[:, layer].numpy()
    means = torch.cat([projections.default_means_NL, projections.roles_means_NL])[:, layer].numpy()
    default = projections.default_NL[:, layer]
    low, high = np.percentile(pooled, [0.2, 99.8])
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    return LayerCalibration(
        layer=layer,
        token_percentiles={p: float(np.percentile(pooled, p)) for p in wanted},
        response_percentiles={p: float(np.percentile(means, p)) for p in wanted},
        default_mean=float(default.mean()),
        default_sd=float(default.std()),
        bin_edges=tuple(edges.tolist()),
        default_share=_shares(default, edges),
        role_share=_shares(projections.roles_NL[:, layer], edges),
    )


def _means(tokens: Sequence[Tensor]) -> Tensor:
    return torch.stack([projections_TL.mean(0) for projections_TL in tokens])


def _shares(values_N: Tensor, edges: np.ndarray) -> tuple[float, ...]:
    counts, _ = np.histogram(values_N.numpy(), bins=edges)
    return tuple((counts / max(1, len(values_N))).tolist())
