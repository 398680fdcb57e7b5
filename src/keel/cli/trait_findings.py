"""Trait space in words: what a newcomer is told of it after a command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.markup import escape

from keel.types import TraitMap

_ENDS = 5


def trait_summary(found: TraitMap) -> dict[str, Any]:
    """The main numbers of a trait map."""
    layer, space = found.layer, found.space
    return {
        "layer": layer,
        "kept": len(found.vectors),
        "dropped": found.dropped,
        "variance_ratio": space.variance_ratio_LK[layer],
        "components_for_70_percent": space.components_for(0.7, layer),
        "default_coordinates": space.default_coordinates_LK[layer],
        "ends_of_components": [_ends(found, at) for at in range(space.loadings_LRK.shape[2])],
        "traits": {name: _one(found, place) for place, name in enumerate(found.traits)},
        "warnings": found.warnings,
    }


def trait_words(found: TraitMap) -> Iterator[str]:
    """What a trait map says, in sentences."""
    layer, space = found.layer, found.space
    first = float(space.variance_ratio_LK[layer, 0])
    ends = _ends(found, 0)
    yield (
        f"[b]Trait space[/b] of {len(found.traits)} traits at layer {layer}: PC1 carries "
        f"{first:.0%} of the variance, from {_names(ends['low'])} to {_names(ends['high'])} (the "
        "default's side)."
    )
    if found.axis is not None:
        order = found.axis.cosine_LN[layer].argsort().tolist()
        for colour, words, places in (
            ("red", "away from the Assistant:", order[:_ENDS]),
            ("blue", "towards the Assistant: ", order[::-1][:_ENDS]),
        ):
            told = ", ".join(_leaning(found, place) for place in places)
            yield f"  {words} [{colour}]{told}[/{colour}]"
        yield "  [dim]in brackets the cosine of the trait's vector with the axis[/dim]"
    yield from (f"  [yellow]note:[/yellow] {warning}" for warning in map(escape, found.warnings))


def _one(found: TraitMap, place: int) -> dict[str, Any]:
    layer, vector = found.layer, found.vectors[place]
    told: dict[str, Any] = {
        "pairs": vector.pairs,
        "judged": vector.judged,
        "differing": vector.differing,
        "split_half": float(found.split_half_LN[layer, place]),
        "default_place": float(found.default_position_LN[layer, place]),
    }
    if (axis := found.axis) is not None:
        parts = {"value": axis.cosine_LN, "low": axis.low_LN, "high": axis.high_LN}
        told["axis_cosine"] = {name: float(of[layer, place]) for name, of in parts.items()}
        told["axis_cosine_by_layer"] = axis.cosine_LN[:, place]
    return told


def _ends(found: TraitMap, component: int) -> dict[str, list[str]]:
    order = found.space.loadings_LRK[found.layer, :, component].argsort().tolist()
    low, high = order[:_ENDS], order[::-1][:_ENDS]
    return {"low": [found.traits[p] for p in low], "high": [found.traits[p] for p in high]}


def _leaning(found: TraitMap, place: int) -> str:
    assert found.axis is not None
    return f"{escape(found.traits[place])} ({float(found.axis.cosine_LN[found.layer, place]):+.2f})"


def _names(names: list[str]) -> str:
    return escape(", ".join(names[:3]))
