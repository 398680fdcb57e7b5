"""Conversations of a drift study, turn by turn, and what they show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from keel.types.results import Interval

NEUTRAL_DOMAIN = "neutral"
"""Domain of conversations whose turns are unrelated plain tasks: what position alone does."""
TurnReadingKind = Literal[
    "with history", "without history", "fresh answer", "along PC1", "along PC2"
]
"""How a turn is read: with its history; its message and answer without it; another answer to the
message without history; or, with its history, along a component of persona space."""


@dataclass(frozen=True)
class ScriptedMessage:
    """A user's message that was written beforehand."""

    text: str
    source: str
    """Domain and pull, such as `script:therapy/disclosure`."""


@dataclass(frozen=True)
class PlannedConversation:
    """Who talks with the model about what; the same under every arm."""

    id: str
    domain: str
    person: str
    topic: str
    script: tuple[ScriptedMessage, ...]
    """The user's messages, one per turn; what an auditor falls back to."""


@dataclass(frozen=True)
class AuditedMessage:
    """A user's message as an auditor wrote it, or the line that stands for it."""

    conversation: str
    text: str
    source: str
    """`auditor`, or `fallback:...` where no attempt would do."""
    attempts: int
    faults: tuple[str, ...] = ()
    """Why attempts were refused."""
    is_end: bool = False
    """Whether the auditor ended the conversation; there is no text then."""


@dataclass(frozen=True)
class TurnLevel:
    """Projections of a turn's content tokens on the axis at one layer, raw units."""

    layer: int
    mean: float
    sd: float
    """Standard deviation over tokens."""
    lowest: float
    """Least mean of eight tokens in a row."""
    first: float
    """Mean of the first sixteen tokens."""
    prompt: float | None = None
    """Of the prompt's last token, before the answer; None where it was not recorded."""
    tokens: int | None = None
    """Of how many tokens it is the mean: the answer's, thinking apart. None in older studies."""


@dataclass(frozen=True)
class StudiedTurn:
    """A turn of one conversation under one arm."""

    conversation: str
    turn: int
    """0-based."""
    message: str
    """What the user said."""
    source: str
    """Where the message came from: `script:...`, `auditor`, `fallback:...` or `given`."""
    answer: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]
    levels: tuple[TurnLevel, ...]
    """One per layer that is read; empty where the answer has no content token."""
    attempts: int = 1
    """How often an auditor was asked for the message."""
    faults: tuple[str, ...] = ()
    """Why messages before this one were refused."""


@dataclass(frozen=True)
class StudiedConversation:
    """One conversation under one arm, to be read."""

    arm: str
    planned: PlannedConversation
    turns: tuple[StudiedTurn, ...]


@dataclass(frozen=True)
class TurnAlone:
    """A turn without what was said before it."""

    conversation: str
    turn: int
    said: tuple[TurnLevel, ...]
    """The same answer read behind its message alone."""
    fresh: tuple[TurnLevel, ...]
    """Another answer to the message alone."""


@dataclass(frozen=True)
class DomainPath:
    """Mean level of a domain's conversations turn by turn, gap units."""

    arm: str
    domain: str
    reading: TurnReadingKind
    levels: tuple[Interval, ...]
    """One per turn, with Student's interval over people."""
    counts: tuple[int, ...]
    """Conversations of each turn."""
    over_neutral: tuple[Interval, ...] = ()
    """The same minus the neutral conversations' mean at that turn; empty for these themselves."""
    slope: Interval | None = None
    """Change per turn, of conversations' own slopes; None with fewer than three turns."""
    slope_over_neutral: Interval | None = None
    cohort: tuple[Interval, ...] = ()
    """Levels of the conversations that reached the last turn only; empty where all did."""


@dataclass(frozen=True)
class ConversationPath:
    """One conversation's levels turn by turn, gap units; None where a turn has none."""

    arm: str
    conversation: str
    domain: str
    levels: tuple[float | None, ...]


@dataclass(frozen=True)
class SpaceShare:
    """How much of the variance of turns' mean activations persona space explains.

    Over all turns of an arm, domains and neutral conversations alike.
    """

    arm: str
    components: int
    """The first so many components of the role vectors."""
    share: Interval
    """0 to 1, with its interval over people."""
    null95: float
    """What 95 % of as many random directions stay below."""
    most: float
    """What as many directions explain that were chosen for these very turns."""
    count: int
    """Turns."""


@dataclass(frozen=True)
class ArmDifference:
    """How a domain's levels under an arm differ from those under the first arm.

    Turn by turn of the same conversations; gap units.
    """

    arm: str
    baseline: str
    domain: str
    first_turn: Interval
    last_turn: Interval


@dataclass(frozen=True)
class SharesOfVariance:
    """Shares (0 to 1) of the variance of levels, turn means removed."""

    arm: str
    domains: float
    people: float
    conversations: float
    turns: float
    """What is left between the turns of a conversation."""


@dataclass(frozen=True)
class PredictionRow:
    """How much of a target some columns explain of people that the fit has not seen."""

    target: str
    columns: str
    r2: Interval
    """Out of fold by person, with its interval over people; below 0 where it misleads."""
    null95: float | None
    """What 95 % of permutations within domain x turn stay below; None where none were made."""
    count: int
    """Messages."""
    is_in_sample: bool = False
    """Whether it is of the rows that were fitted, and so too high; it has no interval."""


@dataclass(frozen=True)
class MessageCluster:
    """Messages that say alike, and how their answers differ from what was to be expected."""

    name: str
    """By the words that set them off."""
    examples: tuple[str, ...]
    """The nearest to their middle."""
    count: int
    people: int
    shift: Interval
    """Mean of levels minus what domain, turn and previous level predict, over people; gap units."""
    q_value: float

    @property
    def effect(self) -> Literal["away", "towards", "not told apart"]:
        """Where it moves the model, if three people or more show it at a q-value below .05."""
        if self.q_value >= 0.05 or self.people < 3:
            return "not told apart"
        return "away" if self.shift.value < 0 else "towards"


@dataclass(frozen=True)
class HarmBranch:
    """A red-team request after a conversation's last turn, and its answer.

    The conversation itself goes without both.
    """

    conversation: str
    turns: int
    """Turns of the conversation before it."""
    request: str
    """Id of the request."""
    answer: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class HarmRate:
    """Share (0 to 1) of a domain's conversations whose request is answered harmfully."""

    arm: str
    domain: str
    rate: Interval
    """Over people."""
    over_neutral: Interval | None
    """Minus that of the neutral conversations; None for these themselves."""
    count: int


@dataclass(frozen=True)
class HarmCorrelation:
    """How the level of a conversation's last turn goes with harm in the answer to the request."""

    arm: str
    kind: Literal["within domains", "between domains"]
    """Of people about their domain's mean, or of domains' means."""
    r: Interval
    """Correlation: within domains by Fisher's z over people, between them resampling people."""
    null95: float
    """What 95 % of permutations stay below in magnitude: of people within their domain, or of
    people over all domains."""
    slope: Interval
    """Change of the share (0 to 1) per gap unit."""
    people: int
    detectable: float
    """Magnitude of r that so many people would show in 80 % of studies; 1 of domains, which are
    few."""


@dataclass(frozen=True)
class DriftStudy:
    """What the conversations of a study show."""

    name: str
    layer: int
    """Where levels were read."""
    conversations: int
    turns: int
    arms: tuple[str, ...]
    paths: tuple[DomainPath, ...]
    differences: tuple[ArmDifference, ...] = ()
    variance: tuple[SharesOfVariance, ...] = ()
    prediction: tuple[PredictionRow, ...] = ()
    """Under the first arm; empty where people are too few, or nothing was to be embedded."""
    prompt_correlation: Interval | None = None
    """Correlation of the prompt's last token with the answer's level under the first arm, over
    people; None where it was not recorded."""
    clusters: tuple[MessageCluster, ...] = ()
    """Of messages under the first arm, the one that moves furthest away first."""
    conversation_paths: tuple[ConversationPath, ...] = ()
    harm: tuple[HarmRate, ...] = ()
    """Of requests after the last turn; empty where none was sent."""
    harm_correlations: tuple[HarmCorrelation, ...] = ()
    """Empty with fewer than eight people."""
    space: tuple[SpaceShare, ...] = ()
    """Empty where the run has no persona space, or the study was made by an earlier version."""
    facts: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def path(self, arm: str, domain: str, reading: TurnReadingKind = "with history") -> DomainPath:
        """The path of a domain under an arm. Raises KeyError where there is none."""
        for path in self.paths:
            if (path.arm, path.domain, path.reading) == (arm, domain, reading):
                return path
        raise KeyError((arm, domain, reading))
