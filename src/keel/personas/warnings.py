"""What few or poor data mean, in words."""

from __future__ import annotations

from collections.abc import Iterator

from keel.personas.cells import Cells
from keel.types import LayerQuality

_WIDE_AUC = 0.15
_LOW_AUC = 0.7
_FEW_ROLES = 20
_FEW_ROLLOUTS = 10
_UNSTABLE = 0.8
_CONCENTRATED = 0.2
_AT_THE_END = 0.9
_MOST_NAMED = 12


def map_warnings(cells: Cells, quality: LayerQuality, dropped: dict[str, int]) -> tuple[str, ...]:
    """A sentence for each reason to trust the map less, at the recommended layer."""
    return (*_of_data(cells, dropped), *_of_separation(quality), *_of_axis(quality))


def _of_data(cells: Cells, dropped: dict[str, int]) -> Iterator[str]:
    if dropped:
        named = [f"{role} ({count})" for role, count in dropped.items()][:_MOST_NAMED]
        more = ["…"] if len(dropped) > len(named) else []
        yield (
            f"Left out for want of answers: {', '.join(named + more)}; {len(dropped)} of "
            f"{len(dropped) + len(cells.roles)} roles. Where they are the Assistant-like ones, "
            "the role mean leans to the fantastical."
        )
    if len(cells.roles) < _FEW_ROLES:
        yield f"Only {len(cells.roles)} roles span the map; the paper has 275."
    fewest = min(cells.counts.values())
    if fewest < _FEW_ROLLOUTS:
        yield (
            f"Some roles rest on few answers, the poorest on {fewest}; the paper asks for 10 and "
            "has up to 1,200. A larger scale makes the intervals narrower."
        )


def _of_separation(quality: LayerQuality) -> Iterator[str]:
    auc, layer = quality.auc, quality.layer
    if auc.high - auc.low > _WIDE_AUC:
        yield (
            f"At layer {layer} the held-out AUC is known only to lie between {auc.low:.2f} and "
            f"{auc.high:.2f}."
        )
    if auc.value < _LOW_AUC:
        yield (
            f"Even at layer {layer} the axis hardly separates default from role answers (held-out "
            f"AUC {auc.value:.2f})."
        )
    if quality.default_percentile < _AT_THE_END:
        yield (
            f"The default stands above {quality.default_percentile:.0%} of the roles, not at the "
            "end of the axis; small models often do so."
        )


def _of_axis(quality: LayerQuality) -> Iterator[str]:
    halves = {"questions": quality.split_half_questions, "roles": quality.split_half_roles}
    for name, value in halves.items():
        if value < _UNSTABLE:
            yield f"Axes from two halves of the {name} agree only to a cosine of {value:.2f}."
    if quality.cos_pc1.value <= quality.cos_pc1_null:
        yield (
            f"|cos(axis, PC1)| is {quality.cos_pc1.value:.2f}, and chance reaches "
            f"{quality.cos_pc1_null:.2f}: PC1 is no evidence for the axis here."
        )
    if quality.top_dims_share > _CONCENTRATED:
        yield (
            f"Ten dimensions carry {quality.top_dims_share:.0%} of the axis' squared norm: massive "
            "activations may speak louder than the persona."
        )
