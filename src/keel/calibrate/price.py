"""What a floor costs the default, and what it does to answers in a role. Needs no judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from keel.calibrate.choosing import distance_interval
from keel.calibrate.floors import Candidate
from keel.calibrate.projections import Projections
from keel.engines import Engine, Probe, Recording
from keel.geometry import lift
from keel.statistics import Clusters, mean_interval, positive_mean_interval, rate_interval
from keel.steering import recorded
from keel.types import (
    AssistantAxis,
    Conversation,
    Floor,
    Floors,
    Interval,
    PricedSetting,
    Rollout,
)

_FEW = 4
"""Answers of each kind whose tokens' pushes are measured one by one."""
_ROUNDING = 1e-5
"""Gap units: an answer that floors leave alone is read to the same place but for rounding."""


@dataclass(frozen=True)
class Prices:
    """Settings with what they cost and do, and where answers stand without them."""

    settings: tuple[PricedSetting, ...]
    default_gaps: tuple[float, ...]
    """Mean projection of each default answer at the last layer, unsteered, gap units."""
    role_gaps: tuple[float, ...]


def price_settings(
    engine: Engine,
    axis: AssistantAxis,
    projections: Projections,
    candidates: Sequence[Candidate],
    *,
    default: Sequence[Rollout],
    roles: Sequence[Rollout],
    on_progress: Callable[[float], None] = lambda share: None,
) -> Prices:
    """Price and effect of each candidate, on given answers that are read again under it.

    Price: mean KL per token from the unsteered model on its own default answers. Effect: how far
    role-playing answers rise at the last layer (all bands lie below it), and how close that brings
    them to the default's. `on_progress` is called with the share done.
    """
    conversations = [r.conversation for r in (*default, *roles)]
    settings = [list(c.floors) for c in candidates]
    kl = divergences(engine, conversations, settings, lambda share: on_progress(share / 2))
    before, _ = read_last_layer(engine, axis, conversations, ())
    default_gaps, role_gaps = before[: len(default)], before[len(default) :]
    pushed = [r.conversation for group in (default, roles) for r in group[:_FEW]]
    first_shares = first_token_shares(engine, [c.floors for c in candidates], pushed)
    priced = []
    for number, (candidate, kl_N) in enumerate(zip(candidates, kl, strict=True), 1):
        after, firing = read_last_layer(engine, axis, conversations, tuple(candidate.floors))
        capped = after[len(default) :]
        price = price_interval(kl_N[: len(default)], default)
        effect = effect_interval([a - b for a, b in zip(capped, role_gaps, strict=True)], roles)
        priced.append(
            PricedSetting(
                floors=candidate.floors,
                percentile=candidate.percentile,
                nominal_firing={
                    f.layer: projections.share_under(f.layer, f.value) for f in candidate.floors
                },
                realised_firing=firing,
                kl_default=price.value,
                kl_roles=math.fsum(kl_N[len(default) :]) / len(roles),
                shift_gaps=effect.value,
                price=price,
                effect=effect,
                distance=distance_interval(
                    capped, default_gaps, (answer_clusters(roles), answer_clusters(default))
                ),
                role_gaps=tuple(capped),
                farther=farther_interval(role_gaps, capped, default_gaps, roles),
                first_share=first_shares[number - 1],
                default_under={
                    f.layer: projections.default_share_under(f.layer, f.value)
                    for f in candidate.floors
                },
            )
        )
        on_progress(0.5 + number / len(candidates) / 2)
    return Prices(tuple(priced), tuple(default_gaps), tuple(role_gaps))


def first_token_shares(
    engine: Engine, settings: Sequence[Floors], conversations: Sequence[Conversation]
) -> list[float | None]:
    """Share of each setting's whole push that falls on the conversations' first tokens.

    Read unsteered over whole conversations, prompts too, which takes a model of this process.
    """
    local = engine.local_model
    if local is None:
        return [None] * len(settings)
    floors = [floor for setting in settings for floor in setting]
    probes = [Probe(floor.layer, floor.direction) for floor in floors]
    heights_K = torch.tensor([floor.value for floor in floors])
    is_held_K = torch.tensor([floor.tokens == "all" for floor in floors]).float()
    first_K, all_K = torch.zeros(2, len(floors))
    for conversation in conversations:
        ids = torch.tensor([engine.template.transcript(conversation).token_ids])
        with (
            torch.inference_mode(),
            recorded(local.model, means=False, probes=probes, blocks=local.blocks) as record,
        ):
            local.model(input_ids=ids.to(local.device))
        lifts_TK = lift(record.projections[0].float().cpu(), heights_K)
        lifts_TK[0] *= is_held_K
        first_K += lifts_TK[0]
        all_K += lifts_TK.sum(0)
    shares, end = [], 0
    for setting in settings:
        start, end = end, end + len(setting)
        whole = float(all_K[start:end].sum())
        shares.append(float(first_K[start:end].sum()) / whole if whole else 0.0)
    return list(shares)


def divergences(
    engine: Engine,
    conversations: Sequence[Conversation],
    settings: Sequence[list[Floor]],
    on_progress: Callable[[float], None],
) -> list[list[float]]:
    """Mean KL per token of each conversation, for each setting."""
    kls = [[math.nan] * len(conversations) for _ in settings]
    for done, divergence in enumerate(engine.divergence(conversations, settings), 1):
        kls[divergence.setting][divergence.index] = divergence.kl
        on_progress(done / (len(conversations) * len(settings)))
    return kls


def read_last_layer(
    engine: Engine,
    axis: AssistantAxis,
    conversations: Sequence[Conversation],
    interventions: Sequence[Floor],
) -> tuple[list[float], dict[int, float]]:
    """Mean projection of each answer at the last layer, in gap units, and each layer's firing."""
    last = len(axis.direction) - 1
    recording = Recording(probes=(Probe(last, axis.direction[last]),))
    projections = [0.0] * len(conversations)
    readings = engine.read(conversations, recording=recording, interventions=interventions)
    for reading in readings:
        projections_TK = reading.turns[-1].projections_TK
        assert projections_TK is not None
        projections[reading.index] = axis.in_gaps(float(projections_TK.mean()), layer=last)
    return projections, readings.firing.by_layer if readings.firing is not None else {}


def price_interval(kl_N: Sequence[float], answers: Sequence[Rollout]) -> Interval:
    """Mean KL over answers with its 95 % interval; floors that move nothing cost nothing."""
    return positive_mean_interval(np.array(kl_N), answer_clusters(answers))


def effect_interval(rises_N: Sequence[float], answers: Sequence[Rollout]) -> Interval:
    """Mean rise of answers with its 95 % interval."""
    return mean_interval(np.array(rises_N), answer_clusters(answers))


def farther_interval(
    before_N: Sequence[float],
    after_N: Sequence[float],
    default_gaps: Sequence[float],
    answers: Sequence[Rollout],
) -> Interval:
    """Share of answers that end farther from the default's mean than they were, with its interval.

    A mean effect hides them: a floor that lifts most answers may push some past the default.
    """
    before, after = (np.abs(np.array(of) - np.mean(default_gaps)) for of in (before_N, after_N))
    is_farther_N = after > before + _ROUNDING
    return rate_interval(is_farther_N.astype(np.float64), answer_clusters(answers))


def answer_clusters(answers: Sequence[Rollout]) -> Clusters:
    """Which answers share a role or a question, however few of each there are."""
    prompts = [answer.prompt for answer in answers]
    factors = [{"role": p.role, "question": str(p.question_index)} for p in prompts]
    return Clusters.of(factors, fewest=2)
