"""Which layers are capped together."""

from __future__ import annotations

from keel.settings import Band

_WIDTH = 0.16
"""Share of the layers in a band; the paper's two settings have 12.5 % and 20 %."""
_CENTRES = (0.5, 0.65, 0.78)
"""Depths tried: the paper's bands are centred at 0.78 and 0.80; small models react earlier."""


def default_bands(layers: int) -> tuple[Band, ...]:
    """Middle-to-late bands of about 16 % of the layers, none twice."""
    width = max(1, round(_WIDTH * layers))
    starts = [round(centre * layers - width / 2) for centre in _CENTRES]
    return tuple(dict.fromkeys(Band(start, start + width) for start in starts))
