"""The fitted alarm and its verdicts. Levels are in gaps: 0 the role mean, 1 the default mean."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from jaxtyping import Float

from keel.arrays import Tensor
from keel.errors import ModelMismatchError, UsageError
from keel.settings import STATISTICS, Statistic
from keel.types import Interval, ModelIdentity, TurnLevels, system_hash

if TYPE_CHECKING:
    from keel.alarm.monitor import Monitor

VerdictState = Literal["ok", "watch", "alarm", "foreign", "unknown"]

FEWEST_TOKENS = 4
"""A turn of fewer content tokens is not judged: its mean says little but how answers begin."""


@dataclass(frozen=True)
class TurnVerdict:
    """What an alarm says of one turn of a conversation."""

    state: VerdictState
    """`alarm` from the turn on at which evidence reached the threshold; `watch` from half of the
    way (in logarithms); `foreign` where the turn lies further from the expected level than the
    calibrated traffic does, on either side; `unknown` where it cannot be judged."""
    evidence: float
    """The statistic after this turn; of the mixture a likelihood ratio, 1 without evidence."""
    threshold: float
    """The evidence from which on there is an alarm."""
    since: int | None
    """Turn (0-based) from which on drift is most likely; None without evidence for any."""
    turn: int
    """0-based number of this turn."""
    gaps: float | None
    """Level of the turn; None for one without tokens."""
    expected_gaps: float
    """Level that default conversations have at this turn."""
    is_new: bool = False
    """Whether the alarm began with this turn: once per conversation."""
    is_provisional: bool = False
    """Whether the turn was not finished; such a verdict is never a new alarm."""


@dataclass(frozen=True)
class FitCheck:
    """One assumption of an alarm, and whether its own conversations bear it out."""

    name: str
    sentence: str
    """What was seen, with its interval."""
    holds: bool
    """Whether nothing that was seen speaks against it."""


@dataclass(frozen=True)
class AlarmFit:
    """What an alarm was calibrated on, and its false alarms on conversations that were held out."""

    conversations: int
    turns: int
    tokens: int
    left_out: int = 0
    """Conversations that the robust fit gave no weight: they may have drifted."""
    held_out: int = 0
    """Conversations that the alarm was tried on without having been fitted to them."""
    held_out_alarms: int = 0
    held_out_rate: Interval | None = None
    """Share of them with an alarm; None where none were held out."""
    detection: float | None = None
    """Expected share detected within 12 turns when all turns from the 6th on fall by `drop`."""
    delay_turns: float | None = None
    """Expected turns from the fall to the alarm, where there is one."""
    source: str = ""
    """Where the conversations came from, in words."""
    warnings: tuple[str, ...] = ()
    checks: tuple[FitCheck, ...] = ()


@dataclass(frozen=True)
class Alarm:
    """How default conversations of an operator vary along the axis, and when a fall is an alarm.

    A default conversation's turn t with n tokens has the level μ_t + b + e_t + ε_t, b drawn once
    per conversation with standard deviation `between`, e_t per turn with `within`, ε_t with
    `token / √n`. After a change at turn c the mean is `drop` lower.
    """

    layer: int
    """0-based layer whose output is projected; below every capped layer of a server."""
    direction: Float[Tensor, " hidden"]
    """The axis at this layer, of length 1, float32; positive is assistant-ward."""
    zero: float
    """Raw projection at 0 gaps, the role mean."""
    gap: float
    """Raw length of a gap: default mean minus role mean."""
    expected: tuple[float, ...]
    """μ_t in gaps, of turn 0, 1, …; later turns are expected where the last one is."""
    between: float
    """Standard deviation of a conversation's level, gaps."""
    within: float
    """Standard deviation of a turn's level within its conversation, gaps."""
    token: float
    """Standard deviation of a turn's mean times the root of its tokens, gaps."""
    identity: ModelIdentity
    """The model that the alarm was made on."""
    drop: float = 0.8
    """Fall of the level, in gaps, that the alarm looks for."""
    rate: float = 0.01
    """Chance that a default conversation ever raises an alarm."""
    statistic: Statistic = "mixture"
    thresholds: dict[str, float] = field(default_factory=dict)
    """Evidence that means an alarm, by rate, for statistics with tuned thresholds."""
    horizon: int | None = None
    """Turns for which tuned thresholds hold; None for the mixture, which needs none."""
    system_sha256: str | None = None
    """Hash of the system prompt of the calibrated conversations; None where they differ."""
    fit: AlarmFit | None = None
    levels: tuple[TurnLevels, ...] = ()
    """Of the calibrated conversations, at this layer and at those where drift is read."""

    def __post_init__(self) -> None:
        positive = {"gap": self.gap, "within": self.within, "drop": self.drop}
        for name, value in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"alarm's {name} is {value:g}, expected more than 0; calibrate it")
        for name, value in {"between": self.between, "token": self.token}.items():
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"alarm's {name} is {value:g}, expected 0 or more; calibrate it")
        if not self.expected or not all(map(math.isfinite, (*self.expected, self.zero))):
            raise UsageError("alarm's expected levels are empty or not finite; calibrate it")
        if self.statistic not in STATISTICS:
            raise UsageError(
                f"statistic is {self.statistic!r}, expected one of {', '.join(STATISTICS)}"
            )
        if self.direction.ndim != 1 or abs(float(self.direction.float().norm()) - 1) > 1e-3:
            raise UsageError(
                f"alarm's direction has shape {list(self.direction.shape)} and norm "
                f"{float(self.direction.float().norm()):.3g}, expected a vector of norm 1"
            )
        self.threshold(self.rate)

    def monitor(self, *, rate: float | None = None) -> Monitor:
        """A watch over conversations, at a rate of false alarms per conversation."""
        from keel.alarm.monitor import Monitor

        return Monitor(self, rate=rate)

    def in_gaps(self, mean: float) -> float:
        """A turn's mean raw projection in gap units."""
        return (mean - self.zero) / self.gap

    def expected_at(self, turn: int) -> float:
        """μ of a 0-based turn, in gaps."""
        return self.expected[min(turn, len(self.expected) - 1)]

    def threshold(self, rate: float | None = None) -> float:
        """Evidence from which on there is an alarm, at a rate of false alarms per conversation.

        By Ville's inequality 1 / rate for the mixture, at any length. Raises UsageError where the
        rate is no share, or the statistic was not tuned for it.
        """
        rate = self.rate if rate is None else rate
        if not 0 < rate < 0.5:
            raise UsageError(
                f"rate of false alarms is {rate:g}, expected a share between 0 and 0.5 of "
                "default conversations, such as 0.01"
            )
        if self.statistic == "mixture":
            return 1 / rate
        key = f"{rate:g}"
        if key not in self.thresholds or self.horizon is None:
            known = ", ".join(self.thresholds) or "none"
            raise UsageError(
                f"statistic {self.statistic!r} was tuned for the rates {known}, not for {key}; "
                "calibrate with that rate, or use the mixture, which needs no tuning"
            )
        return self.thresholds[key]

    def check_below(self, layers: Iterable[int]) -> None:
        """Raise UsageError unless the alarm reads below all of the layers that are capped.

        At and above the first capped layer every turn stands at its floor, and the alarm is blind.
        """
        first = min(layers, default=None)
        if first is not None and self.layer >= first:
            remedy = (
                f"calibrate an alarm below them: keel drift calibrate RUN --layer {first - 1}"
                if first
                else "no layer lies below them; calibrate floors from a later layer on"
            )
            raise UsageError(
                f"the alarm reads layer {self.layer} and layers from {first} on are capped, where "
                f"every turn stands at its floor; {remedy}"
            )

    def check_model(self, identity: ModelIdentity) -> None:
        """Raise ModelMismatchError where the alarm was made on another model."""
        problem = self.identity.mismatch(identity)
        if problem is not None:
            raise ModelMismatchError(
                f"the alarm was made on another model: {problem}; calibrate an alarm on this one: "
                "keel drift calibrate RUN"
            )

    def fits_system(self, system: str | None) -> bool:
        """Whether a conversation's system prompt is the calibrated one; True where any is."""
        return self.system_sha256 is None or self.system_sha256 == system_hash(system)
