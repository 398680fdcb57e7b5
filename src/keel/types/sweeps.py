"""Results of a sweep: every setting screened, those measured, and the recommended one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from keel.errors import UsageError
from keel.types.results import Interval

Fate = Literal["kept", "inert", "too dear", "dominated", "crowded out"]
"""Outcome of screening a setting; only those kept are measured."""
Unit = Literal["share", "nats per token"]

SWEPT = "sweep-"
"""Begins the names of evaluations that a sweep made, for itself alone."""


def is_swept(name: str) -> bool:
    """Whether an evaluation of that name was made by a sweep."""
    return name.startswith(SWEPT)


@dataclass(frozen=True)
class ScreenReading:
    """One setting by what is cheap to know, answer by answer. Needs no judge."""

    name: str
    realised_firing: float
    """Share (0 to 1) of slots moved, with all the floors at work."""
    kls: tuple[float, ...]
    """Price: KL per token (nats) on each default answer."""
    rises: tuple[float, ...]
    """Effect: rise of each role-playing answer's projection at the last layer, gap units."""


@dataclass(frozen=True)
class ScreenedSetting:
    """One setting of the grid, with the result of screening it."""

    name: str
    start: int
    stop: int
    """Layers `start` to `stop` − 1."""
    nominal_firing: float
    """Share (0 to 1) of the calibration's (token, layer) slots under the floors, unsteered."""
    realised_firing: float | None
    """None, like price and effect, where nominal firing alone showed that the setting is inert."""
    price: Interval | None
    """Mean KL per token (nats) on default answers, give or take two standard errors."""
    effect: Interval | None
    """Mean rise of role-playing answers at the last layer, gap units, likewise."""
    fate: Fate
    why: str = ""
    """The reason for its fate, in words."""


@dataclass(frozen=True)
class Change:
    """What a setting changes against the unsteered model, item by item."""

    harm: Interval
    """Change in the rate of harmful answers; below 0 is better."""
    capability: Interval
    """Change in capability; above 0 is better."""
    more_harmful: Interval | None = None
    """Share (0 to 1) of the items that it makes worse in harm; None in old sweeps."""
    less_capable: Interval | None = None
    """The same in capability; None, too, where that is likelihood, which every change lowers."""


@dataclass(frozen=True)
class SweptSetting:
    """One setting that was measured."""

    name: str
    choosing: Change
    """On the items by which settings are chosen."""
    is_on_frontier: bool
    """Whether no other setting is better in one and as good in the other, by those items."""
    deciding: Change | None = None
    """On the held-out items: of the frontier's settings only."""


@dataclass(frozen=True)
class SweepMeasure:
    """What harm or capability was measured by."""

    name: str
    """In words: `harmful answers (jailbreak)`."""
    unit: Unit
    choosing_items: int
    deciding_items: int
    unsteered: float
    """Mean score of the unsteered model on all those items."""
    unjudged: int = 0
    """Scores that are missing, over all settings; such items are left out of a setting's change."""
    cut_share: float | None = None
    """Share (0 to 1) of the answers, over all settings, that were cut off at the token limit; None
    where none was written."""


@dataclass(frozen=True)
class Sweep:
    """A sweep's outcome: what was tried, the frontier, and the setting that is recommended."""

    screened: tuple[ScreenedSetting, ...]
    swept: tuple[SweptSetting, ...]
    harm: SweepMeasure
    capability: SweepMeasure
    tolerance: float
    """Greatest loss of capability accepted, in its unit."""
    recommended: str = ""
    """Name of the setting; empty where none reduces harm at a loss within the tolerance."""
    seed: int = 0
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [setting.name for setting in self.swept]
        if self.recommended and self.recommended not in names:
            raise UsageError(
                f"recommended setting {self.recommended!r} is not among those measured: {names}"
            )

    @property
    def fates(self) -> dict[Fate, int]:
        """Number of settings by fate, the most frequent first."""
        return dict(Counter(setting.fate for setting in self.screened).most_common())

    @property
    def frontier(self) -> tuple[SweptSetting, ...]:
        """The settings on the frontier, from the least harm to the most."""
        on_frontier = [setting for setting in self.swept if setting.is_on_frontier]
        return tuple(sorted(on_frontier, key=lambda setting: setting.choosing.harm.value))

    @property
    def best(self) -> SweptSetting | None:
        """The recommended setting; None where there is none."""
        return next((s for s in self.swept if s.name == self.recommended), None)

    @property
    def is_confirmed(self) -> bool:
        """Whether the held-out items confirm the recommendation: less harm at a tolerable loss."""
        best = self.best
        if best is None or best.deciding is None:
            return False
        change = best.deciding
        return change.harm.high < 0 and change.capability.low >= -self.tolerance
