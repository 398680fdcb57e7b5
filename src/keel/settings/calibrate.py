"""Which floors are tried, and when a floor is too dear."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from keel.errors import UsageError
from keel.settings.flags import JUDGING, SWEEP, Flag
from keel.settings.judging import GraderSettings

CappedTokens = Literal["all", "not_first"]
Pool = Literal["balanced", "paper"]
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
    def parse(cls, text: str) -> Band:
        """A band from `18:23`. Raises UsageError for another form."""
        start, colon, stop = text.partition(":")
        if not (colon and start.isdigit() and stop.isdigit()):
            raise UsageError(f"band is {text!r}, expected START:STOP such as 18:23")
        return cls(int(start), int(stop))

    def check_fits(self, layers: int) -> None:
        """Raise UsageError when a model of so many layers has not all of these."""
        if self.stop > layers:
            raise UsageError(
                f"band {self.start}:{self.stop} reaches past the model's {layers} layers, expected "
                f"START:STOP with STOP at most {layers}"
            )

    @property
    def layers(self) -> range:
        """The layers in the band."""
        return range(self.start, self.stop)

    @property
    def name(self) -> str:
        """`layers_18:23`."""
        return f"layers_{self.start}:{self.stop}"


def _check_percentiles(percentiles: tuple[float, ...]) -> None:
    for percentile in percentiles:
        if 0 < percentile < 1:
            papers = 100 * (1 - percentile)
            raise UsageError(
                f"percentile is {percentile:g}, expected 1 to under 100: a number of 100, and "
                f"assistant-ward; the paper's {percentile:g} is {papers:g} here"
            )
        if not 0 < percentile < 100:
            raise UsageError(
                f"percentile is {percentile:g}, expected 1 to under 100, such as 75: a quarter of "
                "the tokens lie above it"
            )


@dataclass(frozen=True)
class CalibrateSettings:
    """How floors are found."""

    bands: Annotated[tuple[Band, ...], Flag("--band", metavar="START:STOP", read=Band.parse)] = ()
    """Layers capped together, may be repeated; else middle-to-late bands of about 16 % of the
    layers."""
    percentiles: Annotated[tuple[float, ...], Flag("--percentile")] = (50.0, 75.0, 90.0)
    """Assistant-ward percentile of pooled per-token projections to try as a floor; may be
    repeated."""
    deviations: Annotated[tuple[float, ...], Flag("--deviations")] = ()
    """Standard deviations below the default's mean to try as a floor; may be repeated."""
    tokens: Annotated[CappedTokens, Flag("--tokens")] = "all"
    """Tokens that the floors hold: `all`, or `not_first`, which leaves the first token of a
    conversation alone, an attention sink in many models."""
    pool: Annotated[Pool, Flag("--pool")] = "balanced"
    """Answers of which percentiles are taken: `balanced`, as many of the default as of roles; or
    `paper`, of roles and traits, the default as often as it falls among them."""
    price_bound: Annotated[float, Flag("--price-bound", least=0)] = 0.1
    """Highest mean KL per token (nats) accepted on the model's own default answers."""
    rollouts: int = 200
    """Answers of each kind, default and role, whose projections are read."""
    priced_rollouts: Annotated[int, Flag("--answers", least=2)] = 24
    """Answers of each kind, default and role, on which settings are priced."""
    seed: Annotated[int, Flag("--seed", least=0)] = 0
    """Decides which answers are read, and every other draw."""

    def __post_init__(self) -> None:
        _check_percentiles(self.percentiles)
        if not self.percentiles and not self.deviations:
            raise UsageError("nothing to try: give a percentile or a number of deviations")
        if self.price_bound <= 0:
            raise UsageError(f"price bound is {self.price_bound}, expected above 0 nats per token")


@dataclass(frozen=True)
class SweepGrid:
    """Windows × heights. What is empty follows the model's depth."""

    widths: Annotated[tuple[int, ...], Flag("--width", SWEEP, least=1)] = ()
    """Layers in a window, may be repeated; else a sixteenth, an eighth and a quarter of the
    depth."""
    centres: Annotated[tuple[int, ...], Flag("--centre", SWEEP, least=0)] = ()
    """Middle layer of a window, may be repeated; else one every `step` layers, over the whole
    depth."""
    step: Annotated[int | None, Flag("--step", SWEEP, least=1)] = None
    """Layers between two centres; else a sixteenth of the depth."""
    percentiles: Annotated[tuple[float, ...], Flag("--percentile", SWEEP)] = (
        25.0,
        50.0,
        75.0,
        90.0,
    )
    """Assistant-ward percentile of pooled per-token projections to try as a floor; may be
    repeated."""
    deviations: Annotated[tuple[float, ...], Flag("--deviations", SWEEP)] = ()
    """Standard deviations below the default's mean to try as a floor; may be repeated."""

    def __post_init__(self) -> None:
        if self.centres and self.step is not None:
            raise UsageError("both centres and a step are given; give one of them")
        if self.step is not None and self.step < 1:
            raise UsageError(f"step is {self.step} layers, expected 1 or more")
        if any(width < 1 for width in self.widths):
            raise UsageError(f"widths are {self.widths}, expected 1 layer or more")
        _check_percentiles(self.percentiles)
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
    max_price: Annotated[float, Flag("--max-price", SWEEP, least=0, former=("--dearest",))] = 0.2
    """Mean KL per token (nats) on default answers above which a setting is too dear to measure."""
    dominance_margin: float = 0.1
    """Share by which another must be both cheaper and stronger to dominate clearly."""
    neighbour_depth: float = 1 / 8
    """Share of the depth within which settings are compared: the effect is read at the last layer,
    so bands near it look stronger than those far from it, whatever they do to the answers."""
    max_settings: Annotated[int, Flag("--max-settings", SWEEP, least=1, former=("--most",))] = 12
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
    screened_on: Annotated[int, Flag("--answers", SWEEP, least=2)] = 8
    """Answers of each kind, default and role, by which settings are screened."""
    limit: Annotated[int | None, Flag("--limit", SWEEP, least=2)] = 96
    """Items by which harm is measured: half of them choose, half decide."""
    capability_limit: Annotated[int, Flag("--capability-limit", SWEEP, least=2)] = 64
    """Items by which capability is measured: half of them choose, half decide."""
    tolerance: Annotated[float | None, Flag("--tolerance", SWEEP)] = None
    """Greatest loss of capability accepted, a share of tasks' items or nats per token; else
    `task_tolerance` for tasks, and for likelihood the bound of the calibration."""
    task_tolerance: float = 0.02
    """Greatest loss of capability accepted where it is measured by tasks: a share of items."""
    seed: Annotated[int, Flag("--seed", least=0)] = 0
    """Decides which items choose and which decide, and every draw of an answer."""
    adopt: Annotated[bool, Flag("--adopt", SWEEP)] = False
    """Make the recommended setting the run's default, where the items held back bear it out."""

    def __post_init__(self) -> None:
        if min(self.screened_on, self.capability_limit) < 2:
            raise UsageError("answers to screen on and capability items must be 2 or more")
        if self.tolerance is not None and self.tolerance < 0:
            raise UsageError(f"tolerance is {self.tolerance:g}, expected 0 or a loss above it")


@dataclass(frozen=True)
class SweepSources:
    """What a sweep measures harm and capability by."""

    suite: Annotated[str, Flag("--suite", SWEEP)] = "jailbreak"
    """Suite whose items measure harm."""
    data: Annotated[Path | None, Flag("--data", SWEEP)] = None
    """File of the suite's items, in place of Keel's."""
    capability: Annotated[str, Flag("--capability", SWEEP, metavar="TASK[=FILE],...")] = ""
    """Tasks of lm-eval that measure capability, with their data where the hub is out of reach;
    else the likelihood of the model's own answers does."""
    max_new_tokens: Annotated[int | None, Flag("--max-new-tokens", SWEEP, least=1)] = None
    """Longest answer, in tokens; else the suite's own."""
    judge: Annotated[str, Flag("--judge", JUDGING)] = "heuristic"
    """`heuristic`, `self`, `channel`, `local:MODEL`, `channel:MODEL` or `openai:MODEL`."""
    grader: GraderSettings = field(default_factory=GraderSettings)
