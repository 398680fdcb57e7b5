"""How an alarm for drift is calibrated, and how conversations are watched with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from keel.errors import UsageError
from keel.settings.extract import Sampling
from keel.settings.flags import MODEL, Flag

_SIMULATED = "With --simulate"
Statistic = Literal["mixture", "glr", "turn", "ewma", "cusum", "page", "fall"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)


@dataclass(frozen=True)
class AlarmSettings:
    """On which conversations an alarm is calibrated, and what it looks for."""

    simulate: Annotated[int, Flag("--simulate", least=0)] = 0
    """Simulate so many conversations, in which a user asks unrelated questions; best are 40 or
    more logs of your own traffic, with --chats."""
    system: Annotated[str | None, Flag("--system")] = None
    """System prompt: of logs only conversations under it, of simulated ones the one to give."""
    layer: Annotated[int | None, Flag("--layer", least=0)] = None
    """Layer to read at; else the best below the floors, and without floors the axis' own."""
    rate: Annotated[float, Flag("--rate", least=0, most=0.5)] = 0.01
    """Chance (0 to 0.5) that a conversation of the default ever raises an alarm."""
    statistic: Annotated[Statistic, Flag("--statistic")] = "mixture"
    """The mixture holds its rate at any length; glr, turn, ewma, cusum, page and fall are tuned
    for --horizon turns and judge no later ones."""
    horizon: Annotated[int, Flag("--horizon", least=1)] = 12
    """Turns that the threshold of a tuned statistic holds for."""
    drop: Annotated[float, Flag("--drop", least=0)] = 0.8
    """Fall of the level, in gaps, that the alarm looks for."""
    turns: Annotated[int, Flag("--turns", _SIMULATED, least=2)] = 6
    """Turns of each simulated conversation."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=64))
    at_once: Annotated[int, Flag("--at-once", MODEL, least=1)] = 16
    """Simulated conversations that go on together, answered in one batch."""
    seed: Annotated[int, Flag("--seed", _SIMULATED, least=0)] = 0
    """Decides every draw of simulated conversations."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < 0.5:
            raise UsageError(
                f"rate of false alarms is {self.rate:g}, expected a share between 0 and 0.5 of "
                "default conversations, such as 0.01"
            )
        if self.statistic not in STATISTICS:
            raise UsageError(
                f"statistic is {self.statistic!r}, expected one of {', '.join(STATISTICS)}"
            )
        if not self.drop > 0:
            raise UsageError(f"drop is {self.drop:g}, expected more than 0 gaps, such as 0.8")
        for name, least in (("simulate", 0), ("horizon", 1), ("turns", 2), ("at_once", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}, expected {least} or more")


@dataclass(frozen=True)
class WatchSettings:
    """How conversations are watched with a run's alarm."""

    rate: Annotated[float | None, Flag("--rate", least=0, most=0.5)] = None
    """Chance (0 to 0.5) that a conversation of the default ever raises an alarm; else the rate
    that the alarm was calibrated for."""
