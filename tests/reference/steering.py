"""Equation 1 of Lu et al. 2026 (arXiv:2601.10387), written plainly by us: one token at a time."""

import math


def capped(activation: list[float], direction: list[float], floor: float) -> list[float]:
    """h − v·min(⟨h, v⟩ − τ, 0), with v made unit length."""
    length = math.sqrt(sum(x * x for x in direction))
    v = [x / length for x in direction]
    excess = min(sum(h * x for h, x in zip(activation, v, strict=True)) - floor, 0.0)
    return [h - x * excess for h, x in zip(activation, v, strict=True)]
