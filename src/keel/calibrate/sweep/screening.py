"""What each setting does to a few answers that are there already. Cheap, and needs no judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keel.calibrate.price import divergences, read_last_layer
from keel.engines import Engine
from keel.errors import TooFewSamplesError
from keel.types import AssistantAxis, Floors, Rollout, ScreenReading

FEWEST_ANSWERS = 3
"""Of each kind: with fewer there is no telling an effect from noise."""
_TOGETHER = 8
"""Settings whose price is measured in one go: they share the unsteered model's logits."""


def screen_settings(
    engine: Engine,
    axis: AssistantAxis,
    settings: Sequence[Floors],
    *,
    default: Sequence[Rollout],
    roles: Sequence[Rollout],
) -> Iterator[ScreenReading]:
    """Firing, price and effect of each setting, a few settings at a time, in their order.

    Price is the KL from the unsteered model on its own default answers; effect is the rise of
    role-playing answers at the last layer, in gap units. Raises TooFewSamplesError where there
    are too few answers to tell them from noise.
    """
    _check_enough(default, roles)
    if not settings:
        return
    conversations = [rollout.conversation for rollout in (*default, *roles)]
    before, _ = read_last_layer(engine, axis, conversations, ())
    for start in range(0, len(settings), _TOGETHER):
        chunk = settings[start : start + _TOGETHER]
        kls = divergences(
            engine, conversations[: len(default)], [list(f) for f in chunk], lambda share: None
        )
        for floors, kl_N in zip(chunk, kls, strict=True):
            after, firing = read_last_layer(engine, axis, conversations, tuple(floors))
            pairs = list(zip(after, before, strict=True))[len(default) :]
            gap = float(axis.gap[-1])
            yield ScreenReading(
                name=floors.name,
                realised_firing=sum(firing.values()) / len(firing),
                kls=tuple(kl_N),
                rises=tuple((high - low) / gap for high, low in pairs),
            )


def _check_enough(default: Sequence[Rollout], roles: Sequence[Rollout]) -> None:
    if min(len(default), len(roles)) < FEWEST_ANSWERS:
        raise TooFewSamplesError(
            f"screening has {len(default)} default and {len(roles)} role answers, expected "
            f"{FEWEST_ANSWERS} of each or more; extract with more questions"
        )
