"""How often interventions moved a token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from keel.errors import NotAppliedError


@dataclass(frozen=True)
class Firing:
    """Tokens seen and tokens moved by a floor or ceiling, per layer."""

    fired: dict[int, int]
    slots: dict[int, int]
    """Tokens on which the layer's interventions could act (padding is not counted)."""

    @property
    def by_layer(self) -> dict[int, float]:
        """Share (0 to 1) of tokens moved at each layer; layers that saw none are left out."""
        return {layer: self.fired[layer] / n for layer, n in self.slots.items() if n}

    @property
    def rate(self) -> float:
        """Share (0 to 1) of all (token, layer) slots moved; 0 where there was none."""
        slots = sum(self.slots.values())
        return sum(self.fired.values()) / slots if slots else 0.0

    def __add__(self, other: Firing) -> Firing:
        layers = sorted({*self.slots, *other.slots})
        return Firing(
            {n: self.fired.get(n, 0) + other.fired.get(n, 0) for n in layers},
            {n: self.slots.get(n, 0) + other.slots.get(n, 0) for n in layers},
        )


def check_reached(firing: Firing | None, layers: Iterable[int]) -> None:
    """Raise NotAppliedError unless every layer that was to be steered saw a token.

    A `firing` of None counted nothing, so no layer is known to have been steered.
    """
    seen = {} if firing is None else firing.slots
    missed = sorted({layer for layer in layers if not seen.get(layer)})
    if missed:
        raise NotAppliedError(
            f"the interventions at layers {missed} saw no token, expected all that passed the "
            "model; do not trust these outputs, load the model again"
        )
