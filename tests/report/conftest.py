"""Plausible results of a run that never was: 24 roles, 30 layers, hidden size 64."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from keel.report import ReportInputs
from keel.types import (
    AssistantAxis,
    Calibration,
    DriftReading,
    Floor,
    Floors,
    Interval,
    LayerCalibration,
    LayerQuality,
    ModelIdentity,
    PersonaMap,
    PersonaSpace,
    PersonaVector,
    PricedSetting,
    Replay,
    ReplayTurn,
    TurnReading,
)

LAYERS, HIDDEN, AXIS_LAYER = 30, 64, 20
KINDS = {
    "worldly": "editor tutor consultant reviewer engineer doctor librarian accountant",
    "fictional": "pirate bard ghost vampire wizard dragon oracle trickster",
    "relational": "grandmother rival best_friend mentor",
    "collective": "swarm hive choir parliament",
}
ROLE_KINDS = {role: kind for kind, roles in KINDS.items() for role in roles.split()}
ATTACK = "<script>alert(1)</script> & <b>bold</b> words"
"""A sample answer that must reach the reader as text."""


@pytest.fixture(scope="session")
def inputs() -> ReportInputs:
    return synthetic_inputs(0)


@pytest.fixture(scope="session")
def make_inputs() -> Callable[[int], ReportInputs]:
    return synthetic_inputs


def synthetic_inputs(seed: int) -> ReportInputs:
    """A whole run's results, the same for the same seed."""
    draw = torch.Generator().manual_seed(seed)
    found = _persona_map(draw)
    return ReportInputs(
        title="smollm2, small scale",
        identity=found.axis.identity,
        persona_map=found,
        calibration=_calibration(found.axis, draw),
        drift=tuple(_reading(name, found.axis, draw) for name in ("ask-a-chef", "moon", "poem")),
        replays=tuple(_replay(name, found.axis, draw) for name in ("moon", "poem")),
        samples={role: _answer(role) for role in [*ROLE_KINDS, "default"]} | {"ghost": ATTACK},
        role_kinds=ROLE_KINDS,
        facts=(
            ("date", "2026-01-31"),
            ("sampling", "temperature 0.7, top_p 0.9, at most 64 tokens"),
            ("seed", str(seed)),
            ("template", "injects its own system prompt where none is given"),
            ("versions", "keel 0.1.0, torch 2.13, transformers 5.16"),
        ),
        warnings=("the chat template puts a system prompt of its own in front of the default",),
    )


def _persona_map(draw: torch.Generator) -> PersonaMap:
    roles = list(ROLE_KINDS)
    lean = {"worldly": 0.7, "fictional": -0.9, "relational": 0.1, "collective": -0.3}
    along = torch.tensor([lean.get(ROLE_KINDS[role], 0.0) for role in roles]) + 0.3 * _noise(
        draw, len(roles)
    )
    aside = torch.tensor([-1.0 if ROLE_KINDS[r] == "collective" else 0.3 for r in roles])
    size_L = torch.linspace(0.4, 6.0, LAYERS)
    basis_L2D = torch.linalg.qr(_noise(draw, LAYERS, HIDDEN, 2))[0].transpose(1, 2)
    place_R2 = torch.stack([along, 0.8 * aside + 0.3 * _noise(draw, len(roles))], -1)
    centre_LD = 8 * size_L[:, None] * _noise(draw, LAYERS, HIDDEN) / HIDDEN**0.5
    noise_LRD = 0.05 * _noise(draw, LAYERS, len(roles), HIDDEN)
    roles_LRD = centre_LD[:, None] + size_L[:, None, None] * (place_R2 @ basis_L2D + noise_LRD)
    default_LD = centre_LD + size_L[:, None] * (1.3 * basis_L2D[:, 0] + 0.1 * basis_L2D[:, 1])
    axis = _axis(roles_LRD, default_LD)
    return PersonaMap(
        vectors=tuple(
            PersonaVector(role, "all", roles_LRD[:, i], 40 + i) for i, role in enumerate(roles)
        ),
        default_LD=default_LD,
        default_count=40,
        dropped={"mime": 3},
        axis=axis,
        space=_space(tuple(roles), roles_LRD, default_LD),
        quality=tuple(_quality(layer, axis) for layer in range(LAYERS)),
        warnings=("the role mime was dropped: 3 rollouts, minimum 10",),
    )


def _axis(roles_LRD: torch.Tensor, default_LD: torch.Tensor) -> AssistantAxis:
    vector = default_LD - roles_LRD.mean(1)
    direction = vector / vector.norm(dim=-1, keepdim=True)
    return AssistantAxis(
        vector=vector,
        layer=AXIS_LAYER,
        default_projection=(default_LD * direction).sum(-1),
        role_projection=(roles_LRD.mean(1) * direction).sum(-1),
        residual_norm=9 * torch.linspace(0.4, 6.0, LAYERS),
        identity=ModelIdentity("smollm2", LAYERS, HIDDEN, revision="main", dtype="float32"),
    )


def _space(
    roles: tuple[str, ...], roles_LRD: torch.Tensor, default_LD: torch.Tensor
) -> PersonaSpace:
    mean_LD = roles_LRD.mean(1)
    centred_LRD = roles_LRD - mean_LD[:, None]
    _, scale_LK, rows_LKD = torch.linalg.svd(centred_LRD, full_matrices=False)
    away_LD = default_LD - mean_LD
    turn_LK = torch.sign(torch.einsum("lkd,ld->lk", rows_LKD, away_LD))
    components_LKD = (rows_LKD * turn_LK[..., None])[:, :12]
    coordinates_LRK = torch.einsum("lrd,lkd->lrk", centred_LRD, components_LKD)
    default_LK = torch.einsum("ld,lkd->lk", away_LD, components_LKD)
    return PersonaSpace(
        roles=roles,
        mean_LD=mean_LD,
        components_LKD=components_LKD,
        variance_ratio_LK=(scale_LK**2 / (scale_LK**2).sum(-1, keepdim=True))[:, :12],
        loadings_LRK=coordinates_LRK / centred_LRD.norm(dim=-1, keepdim=True),
        coordinates_LRK=coordinates_LRK,
        default_loadings_LK=default_LK / away_LD.norm(dim=-1, keepdim=True),
        default_coordinates_LK=default_LK,
    )


def _quality(layer: int, axis: AssistantAxis) -> LayerQuality:
    height = math.exp(-(((layer - AXIS_LAYER) / 12) ** 2))
    auc, cos = 0.55 + 0.36 * height, 0.3 + 0.52 * height
    return LayerQuality(
        layer=layer,
        axis_norm=float(axis.vector[layer].norm()),
        default_percentile=min(1.0, 0.6 + 0.42 * height),
        d_prime=Interval(2 * height, 2 * height - 0.2, 2 * height + 0.25),
        auc=Interval(auc, auc - 0.04, auc + 0.03),
        split_half_questions=0.7 + 0.28 * height,
        split_half_roles=0.5 + 0.4 * height,
        cos_pc1=Interval(cos, cos - 0.1, cos + 0.06),
        cos_pc1_null=0.31,
        top_dims_share=0.2,
    )


def _calibration(axis: AssistantAxis, draw: torch.Generator) -> Calibration:
    layers = tuple(_distribution(layer, axis) for layer in range(12, 28))
    bands = ((14, 18), (16, 22), (18, 23), (18, 26))
    settings = tuple(
        _setting(axis, band, percentile, draw) for band in bands for percentile in (50, 75, 90)
    )
    return Calibration(layers, settings, chosen="layers_18:23-p75", price_bound=0.125)


def _distribution(layer: int, axis: AssistantAxis) -> LayerCalibration:
    gap, role = float(axis.gap[layer]), float(axis.role_projection[layer])
    edges = [role + gap * (-3 + 7 * i / 40) for i in range(41)]
    shares = [_bell(edges, role + gap * middle, 0.9 * gap) for middle in (1.0, 0.0)]
    return LayerCalibration(
        layer=layer,
        token_percentiles={50: role + 0.4 * gap, 75: role + 1.1 * gap, 90: role + 1.7 * gap},
        response_percentiles={50: role + 0.4 * gap, 75: role + 0.8 * gap, 90: role + gap},
        default_mean=role + gap,
        default_sd=0.9 * gap,
        bin_edges=tuple(edges),
        default_share=tuple(shares[0]),
        role_share=tuple(shares[1]),
    )


def _setting(
    axis: AssistantAxis, band: tuple[int, int], percentile: int, draw: torch.Generator
) -> PricedSetting:
    lift = {50: 0.4, 75: 1.1, 90: 1.7}[percentile]
    floors = tuple(
        Floor(at, axis.direction[at], float(axis.role_projection[at] + lift * axis.gap[at]))
        for at in range(*band)
    )
    depth = (band[1] - band[0]) / 4
    return PricedSetting(
        floors=Floors(floors, name=f"layers_{band[0]}:{band[1]}-p{percentile}"),
        percentile=percentile,
        nominal_firing=dict.fromkeys(range(*band), percentile / 100),
        realised_firing={at: percentile / 100 / (1 + 0.6 * i) for i, at in enumerate(range(*band))},
        kl_default=0.004
        * 4 ** (2 * lift)
        * depth
        * (1 + 0.2 * float(torch.rand(1, generator=draw))),
        kl_roles=0.008 * 4 ** (2 * lift) * depth,
        shift_gaps=0.35 * lift * depth,
    )


def _reading(name: str, axis: AssistantAxis, draw: torch.Generator) -> DriftReading:
    slope = {"ask-a-chef": 0.0, "moon": 0.14, "poem": 0.08}[name]
    floor = float(axis.role_projection[AXIS_LAYER] + 0.3 * axis.gap[AXIS_LAYER])
    turns = tuple(_turn(i, 1.0 - slope * i, axis, draw, floor) for i in range(12))
    return DriftReading(name, AXIS_LAYER, turns, floor)


def _replay(name: str, axis: AssistantAxis, draw: torch.Generator) -> Replay:
    floor = float(axis.role_projection[AXIS_LAYER] + 0.3 * axis.gap[AXIS_LAYER])
    turns = tuple(
        ReplayTurn(
            user=f"And what do you feel when you look up? ({i})",
            uncapped=_turn(i, 0.9 - 0.15 * i, axis, draw, floor),
            capped=_turn(i, 0.95 - 0.04 * i, axis, draw, floor),
        )
        for i in range(6)
    )
    return Replay(name, AXIS_LAYER, floor, "layers_18:23-p75", turns, firing_rate=0.31)


def _turn(
    place: int, gaps: float, axis: AssistantAxis, draw: torch.Generator, floor: float
) -> TurnReading:
    gap, role = float(axis.gap[AXIS_LAYER]), float(axis.role_projection[AXIS_LAYER])
    tokens_T = role + gap * (gaps + 0.6 * _noise(draw, 48))
    mean = float(tokens_T.mean())
    return TurnReading(
        turn=place,
        projection=mean,
        gaps=axis.in_gaps(mean, AXIS_LAYER),
        token_projections=tuple(tokens_T.tolist()),
        text=f"{ATTACK} spoken in turn {place}. " + _answer("the sky") * (place % 3 + 1),
        is_below_floor=mean < floor,
        lowest_usual_gaps=axis.in_gaps(floor, AXIS_LAYER),
        expected_gaps=0.5,
    )


def _answer(of: str) -> str:
    return (
        f"Let me tell you about {of}. There is more to it than one would think, and I would begin "
        "with the small things: what it is made of, who looks after it, and why it has lasted. "
    )


def _bell(edges: list[float], middle: float, width: float) -> list[float]:
    centres = [(low + high) / 2 for low, high in pairwise(edges)]
    heights = [math.exp(-(((x - middle) / width) ** 2) / 2) for x in centres]
    return [height / sum(heights) for height in heights]


def _noise(draw: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=draw)
