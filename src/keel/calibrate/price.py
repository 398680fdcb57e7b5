"""What a floor costs the default, and what it does to answers in a role. Needs no judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from keel.calibrate.floors import Candidate
from keel.calibrate.projections import Projections
from keel.engines import Engine, Probe, Recording
from keel.types import AssistantAxis, Conversation, Floor, PricedSetting, Rollout


def price_settings(
    engine: Engine,
    axis: AssistantAxis,
    projections: Projections,
    candidates: Sequence[Candidate],
    *,
    default: Sequence[Rollout],
    roles: Sequence[Rollout],
    on_progress: Callable[[float], None] = lambda share: None,
) -> list[PricedSetting]:
    """Price and effect of each candidate, on given answers that are read again under it.

    Price: mean KL per token from the unsteered model on its own default answers. Effect: how far
    role-playing answers rise at the last layer (all bands lie below it). `on_progress` is called
    with the share done.
    """
    conversations = [r.conversation for r in (*default, *roles)]
    settings = [list(c.floors) for c in candidates]
    kl = divergences(engine, conversations, settings, lambda share: on_progress(share / 2))
    before, _ = read_last_layer(engine, axis, conversations, ())
    priced = []
    for number, (candidate, kl_N) in enumerate(zip(candidates, kl, strict=True), 1):
        after, firing = read_last_layer(engine, axis, conversations, tuple(candidate.floors))
        rise = _mean(after[len(default) :]) - _mean(before[len(default) :])
        priced.append(
            PricedSetting(
                floors=candidate.floors,
                percentile=candidate.percentile,
                nominal_firing={
                    f.layer: projections.share_under(f.layer, f.value) for f in candidate.floors
                },
                realised_firing=firing,
                kl_default=_mean(kl_N[: len(default)]),
                kl_roles=_mean(kl_N[len(default) :]),
                shift_gaps=rise / float(axis.gap[-1]),
            )
        )
        on_progress(0.5 + number / len(candidates) / 2)
    return priced


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
    """Mean projection of each answer at the last layer, and the firing rate of each layer."""
    last = len(axis.direction) - 1
    recording = Recording(probes=(Probe(last, axis.direction[last]),))
    projections = [0.0] * len(conversations)
    readings = engine.read(conversations, recording=recording, interventions=interventions)
    for reading in readings:
        projections_TK = reading.turns[-1].projections_TK
        assert projections_TK is not None
        projections[reading.index] = float(projections_TK.mean())
    return projections, readings.firing.by_layer if readings.firing is not None else {}


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
