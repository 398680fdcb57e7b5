"""Which layers are capped together."""

from __future__ import annotations

from dataclasses import dataclass

from keel.errors import UsageError

_WIDTH = 0.16
"""Share of the layers in a band; the paper's two settings have 12.5 % and 20 %."""
_CENTRES = (0.5, 0.65, 0.78)
"""Depths tried: the paper's bands are centred at 0.78 and 0.80; small models react earlier."""


@dataclass(frozen=True)
class Band:
    """Adjacent layers `start` to `stop` − 1, as a Python slice."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise UsageError(f"band is {self.start}:{self.stop}, expected START:STOP, START < STOP")

    @classmethod
    def parse(cls, text: str, layers: int) -> Band:
        """A band from `18:23`. Raises UsageError when it does not fit a model of so many layers."""
        start, colon, stop = text.partition(":")
        if not (colon and start.isdigit() and stop.isdigit()):
            raise UsageError(f"band is {text!r}, expected START:STOP such as 18:23")
        band = cls(int(start), int(stop))
        if band.stop > layers:
            raise UsageError(f"band {text} reaches past the model's {layers} layers")
        return band

    @property
    def layers(self) -> range:
        """The layers in the band."""
        return range(self.start, self.stop)

    @property
    def name(self) -> str:
        """`layers_18:23`."""
        return f"layers_{self.start}:{self.stop}"


def default_bands(layers: int) -> tuple[Band, ...]:
    """Middle-to-late bands of about 16 % of the layers, none twice."""
    width = max(1, round(_WIDTH * layers))
    starts = [round(centre * layers - width / 2) for centre in _CENTRES]
    return tuple(dict.fromkeys(Band(start, start + width) for start in starts))
