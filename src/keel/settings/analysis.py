"""How a finished run is used: chats, conversations read along its axis, comparisons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from keel.errors import UsageError
from keel.settings.extract import Sampling, Spans
from keel.settings.flags import MODEL, Flag

Orientation = Literal["assistant-ward", "role-ward"]
"""Which way vectors point."""


@dataclass(frozen=True)
class AxisSource:
    """An axis for a model that has no run."""

    axis: Annotated[str | None, Flag("--axis", MODEL, metavar="HUB_ID|FILE")] = None
    """Axis from elsewhere, with a model in RUN's stead: a name that `keel axes` lists, a hub id, a
    folder or a file."""
    floors: Annotated[str | None, Flag("--floors", MODEL, metavar="HUB_ID|FILE")] = None
    """Floors for that axis; else those that lie beside it."""
    orientation: Annotated[Orientation | None, Flag("--orientation", MODEL)] = None
    """Which way that axis points, where its file does not say so."""


@dataclass(frozen=True)
class ChatSettings:
    """How one talks with a model."""

    is_capped: Annotated[bool, Flag("--capped")] = False
    """Cap activations from the first answer on."""
    system: Annotated[str | None, Flag("--system")] = None
    """System prompt; else none."""
    setting: Annotated[str | None, Flag("--setting")] = None
    """Which of the run's settings caps; else its default."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=300))
    seed: Annotated[int, Flag("--seed", least=0)] = 0
    """Decides every draw of an answer."""


@dataclass(frozen=True)
class DriftSettings:
    """How conversations are read along the axis, or answered anew."""

    setting: Annotated[str | None, Flag("--setting")] = None
    """Which of the run's settings is shown, and caps in a replay; else its default."""
    layer: Annotated[int | None, Flag("--layer", least=0)] = None
    """Layer to read at; else the axis' own, or the capped layer nearest to it."""
    spans: Annotated[Spans, Flag("--spans")] = "answer"
    """What is read of given turns: the answers, as if nothing had been thought before them; the
    thinking, each turn's where it stood; or both, as two paths."""
    false_alarms: Annotated[float, Flag("--false-alarms")] = 0.05
    """Share (0 to 0.5) of the model's own default answers that may be marked as unusually low."""
    words_alone: Annotated[bool, Flag("--alone/--no-alone")] = False
    """Read each turn of given conversations once more, behind its message alone: what its words
    say without their history."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=200))
    """Of a replay's answers."""
    draws: Annotated[int, Flag("--draws", least=1)] = 1
    """How often a replay is drawn: with several, each turn has an interval."""
    seed: Annotated[int, Flag("--seed", least=0)] = 0
    """Decides every draw of a replay's answers."""

    def __post_init__(self) -> None:
        check_false_alarms(self.false_alarms)


def check_false_alarms(share: float) -> None:
    """Raise UsageError unless this is a share of answers that may be marked as unusual."""
    if not 0 < share < 0.5:
        raise UsageError(
            f"false alarms are {share:g}, expected a share between 0 and 0.5, such as 0.05 for "
            "every twentieth default answer"
        )


@dataclass(frozen=True)
class CompareSettings:
    """How two runs are compared."""

    components: Annotated[int, Flag("--components", least=1)] = 5
    """Principal components to compare, at the most."""
    seed: Annotated[int, Flag("--seed", least=0)] = 0
    """Decides the halves of the roles behind the null of the axes' cosine."""

    def __post_init__(self) -> None:
        if self.components < 1:
            raise UsageError(f"components is {self.components}, expected 1 or more")
