"""Which floors are tried, and when a floor is too dear."""

from __future__ import annotations

from dataclasses import dataclass, field

from keel.errors import UsageError

_WIDTHS = (1 / 16, 1 / 8, 1 / 4)
"""Shares of the depth. The paper's chosen bands have 1/8 and 1/5; small models liked wide ones."""
_STEP = 1 / 16


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


@dataclass(frozen=True)
class CalibrateSettings:
    """How floors are found."""

    bands: tuple[Band, ...] = ()
    """Layers capped together; empty: middle-to-late bands of about 16 % of the layers."""
    percentiles: tuple[float, ...] = (50.0, 75.0, 90.0)
    """Assistant-ward percentiles of pooled per-token projections to try as floors."""
    deviations: tuple[float, ...] = ()
    """Also try floors at the default's mean minus so many standard deviations."""
    price_bound: float = 0.1
    """Highest mean KL per token (nats) accepted on the model's own default answers."""
    rollouts: int = 200
    """Answers of each kind, default and role, whose projections are read."""
    priced_rollouts: int = 24
    """Answers of each kind on which settings are priced."""
    seed: int = 0

    def __post_init__(self) -> None:
        if any(not 0 < p < 100 for p in self.percentiles):
            raise UsageError(f"percentiles are {self.percentiles}, expected above 0, under 100")
        if not self.percentiles and not self.deviations:
            raise UsageError("nothing to try: give a percentile or a number of deviations")
        if self.price_bound <= 0:
            raise UsageError(f"price bound is {self.price_bound}, expected above 0 nats per token")


@dataclass(frozen=True)
class SweepGrid:
    """Windows × heights. What is empty follows the model's depth."""

    widths: tuple[int, ...] = ()
    """Layers capped together; empty: a sixteenth, an eighth and a quarter of the depth."""
    centres: tuple[int, ...] = ()
    """Middle layers of the windows; empty: one every `step` layers, over the whole depth."""
    step: int | None = None
    """Layers between two centres; None: a sixteenth of the depth."""
    percentiles: tuple[float, ...] = (25.0, 50.0, 75.0, 90.0)
    """Assistant-ward percentiles of pooled per-token projections to try as floors."""
    deviations: tuple[float, ...] = ()
    """Also try floors at the default's mean minus so many standard deviations."""

    def __post_init__(self) -> None:
        if self.centres and self.step is not None:
            raise UsageError("both centres and a step are given; give one of them")
        if self.step is not None and self.step < 1:
            raise UsageError(f"step is {self.step} layers, expected 1 or more")
        if any(width < 1 for width in self.widths):
            raise UsageError(f"widths are {self.widths}, expected 1 layer or more")
        if any(not 0 < p < 100 for p in self.percentiles):
            raise UsageError(f"percentiles are {self.percentiles}, expected above 0, under 100")
        if not self.percentiles and not self.deviations:
            raise UsageError("nothing to try: give a percentile or a number of deviations")

    def bands(self, layers: int) -> tuple[Band, ...]:
        """Windows that fit into a model of so many layers, none twice.

        Raises UsageError where none fits.
        """
        step = self.step or max(1, round(_STEP * layers))
        centres = self.centres or tuple(range(step // 2, layers, step))
        widths = self.widths or tuple(max(1, round(share * layers)) for share in _WIDTHS)
        fitting = [
            Band(centre - width // 2, centre - width // 2 + width)
            for width in dict.fromkeys(widths)
            for centre in centres
            if centre >= width // 2 and centre - width // 2 + width <= layers
        ]
        if not fitting:
            raise UsageError(
                f"no window of {', '.join(map(str, widths))} layers around "
                f"{', '.join(map(str, centres))} fits into "
                f"{layers} layers; give narrower ones or other centres"
            )
        return tuple(dict.fromkeys(fitting))

    def size(self, layers: int) -> int:
        """How many settings there are."""
        return len(self.bands(layers)) * (len(self.percentiles) + len(self.deviations))


@dataclass(frozen=True)
class ScreenLimits:
    """When a setting is not worth measuring."""

    min_firing: float = 0.05
    """Share (0 to 1) of slots moved under which a setting is inert."""
    max_price: float = 0.2
    """Mean KL per token (nats) on default answers above which a setting is too dear."""
    dominance_margin: float = 0.1
    """Share by which another must be both cheaper and stronger to dominate clearly."""
    neighbour_depth: float = 1 / 8
    """Share of the depth within which settings are compared: the effect is read at the last layer,
    so bands near it look stronger than those far from it, whatever they do to the answers."""
    max_settings: int = 12
    """Settings measured at most; those in excess are left out evenly over depth and price."""

    def __post_init__(self) -> None:
        if self.max_settings < 1:
            raise UsageError(f"max_settings is {self.max_settings}, expected 1 or more")
        if self.max_price <= 0:
            raise UsageError(f"max_price is {self.max_price}, expected above 0 nats per token")


@dataclass(frozen=True)
class SweepSettings:
    """How settings are swept."""

    grid: SweepGrid = field(default_factory=SweepGrid)
    limits: ScreenLimits = field(default_factory=ScreenLimits)
    screened_on: int = 8
    """Answers of each kind, default and role, by which settings are screened."""
    limit: int | None = 96
    """Items by which harm is measured, both halves together; None: all."""
    capability_limit: int = 64
    """Items by which capability is measured, both halves together."""
    tolerance: float | None = None
    """Greatest loss of capability accepted: a share of tasks' items, or nats per token. None: 0.02
    for tasks, and for the price the bound of the calibration."""
    seed: int = 0
    """Decides which items choose and which decide, and every draw of an answer."""
    adopt: bool = False
    """Make the recommended setting the run's default, where the items held back bear it out."""

    def __post_init__(self) -> None:
        if min(self.screened_on, self.capability_limit) < 2:
            raise UsageError("answers to screen on and capability items must be 2 or more")
        if self.tolerance is not None and self.tolerance < 0:
            raise UsageError(f"tolerance is {self.tolerance:g}, expected 0 or a loss above it")
