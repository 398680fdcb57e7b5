"""Results of the stages: an axis' quality, prices of floors, drift."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float, Int

from keel.arrays import Array
from keel.types.conversation import system_hash
from keel.types.floors import Floors
from keel.types.space import AssistantAxis, AxisFolds, PersonaSpace, PersonaVector
from keel.words import Form, fixed


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, form: Form = fixed) -> str:
        """`0.91 (0.88 to 0.94)`, each number written by `form`.

        >>> Interval(0.91, 0.88, 0.94).text(), Interval(-0.5, -1, 0).text("{:+.1f}".format)
        ('0.91 (0.88 to 0.94)', '-0.5 (-1.0 to +0.0)')
        """
        return f"{form(self.value)} ({self.bounds(form)})"

    def bounds(self, form: Form = fixed) -> str:
        """`0.88 to 0.94`; `not known` where nothing bounds the number."""
        if not (math.isfinite(self.low) or math.isfinite(self.high)):
            return "not known"
        return f"{form(self.low)} to {form(self.high)}"


_ROLES_FOR_PC1 = 19
"""From so many roles the default's rank among them and itself can be one of twenty."""
_ROLES_FOR_PC1_OF_PROMPTS = 50
"""From so many it held in simulation where the default has several prompts (docs/statistics.md)."""


@dataclass(frozen=True)
class DefaultPromptQuality:
    """How the default under one of its system prompts stands to its other prompts."""

    auc: float
    """Held-out AUC (0 to 1) of its answers, on an axis made without it."""
    cosine: float
    """Cosine of the axis that it alone gives with that of the others; 1 where there are none."""


@dataclass(frozen=True)
class LayerQuality:
    """How well the axis of one layer separates the default from the roles."""

    layer: int
    axis_norm: float
    default_percentile: float
    """Share (0 to 1) of roles that project below the default."""
    d_prime: Interval
    """Held-out distance of default and role responses, in pooled standard deviations."""
    auc: Interval
    """Held-out chance (0 to 1) that a default response projects above a role response."""
    split_half_questions: float
    """Cosine of the axes from the two halves of the questions."""
    split_half_roles: float
    """Cosine of the axes from the two halves of the roles."""
    cos_pc1: Interval
    """|cosine| of axis and first principal component, corrected for noise and for few roles."""
    cos_pc1_null: float
    """What 95 % of the roles stay below, each in the default's stead, corrected alike."""
    top_dims_share: float
    """Share (0 to 1) of the axis' squared norm in its ten largest dimensions."""
    cos_pc1_p: float | None = None
    """p of the default's being one more role, by its rank; None in maps of earlier versions."""
    default_prompts: tuple[DefaultPromptQuality, ...] = ()
    """By the default's system prompts, in their order; empty in runs of older versions."""

    def is_along_pc1(self, roles: int) -> bool | None:
        """Whether the axis lies nearer to PC1 than roles do; None where so few cannot tell.

        Report, warnings and JSON go by this.
        """
        if self.cos_pc1_p is None or self.pc1_caveat(roles):
            return None
        return self.cos_pc1_p <= 0.05

    def pc1_caveat(self, roles: int) -> str:
        """Why p of |cos(axis, PC1)| supports no verdict on a map of so many roles; else empty."""
        if self.cos_pc1_p is None:
            return "the map is an older version's, without a p"
        if roles < _ROLES_FOR_PC1:
            return f"p of {roles} roles cannot fall to 0.05; that takes {_ROLES_FOR_PC1}"
        if len(self.default_prompts) > 1 and roles < _ROLES_FOR_PC1_OF_PROMPTS:
            return (
                f"where the default has more prompts than a role, p of {roles} roles is too small: "
                "with 20 roles 10 to 14 % of true nulls reach 0.05; it holds from "
                f"{_ROLES_FOR_PC1_OF_PROMPTS} on"
            )
        return ""


@dataclass(frozen=True)
class DefaultAnswers:
    """Mean projections of the model's own default answers, each on an axis made without it.

    They answer single questions without a history: of a later turn they say how it stands to those.
    """

    gaps_NL: Float[Array, "answer layer"]
    """In gap units: 0 role mean, 1 default mean."""
    tokens_N: Int[Array, " answer"]
    """Number of content tokens of each."""
    questions_N: Int[Array, " answer"]
    """Code of the question of each: answers to one question are alike."""


@dataclass(frozen=True)
class PersonaMap:
    """The result of one extraction: role vectors, persona space, axis and its quality."""

    vectors: tuple[PersonaVector, ...]
    """The role vectors that the axis was made of."""
    default_LD: Float[Array, "layer hidden"]
    default_count: int
    dropped: dict[str, int]
    """Roles with too few rollouts, left out, with their number of rollouts."""
    axis: AssistantAxis
    space: PersonaSpace
    quality: tuple[LayerQuality, ...]
    """One per layer."""
    warnings: tuple[str, ...] = ()
    default_answers: DefaultAnswers | None = None
    """What a turn is judged against; None where the answers' lengths were not known."""
    axis_folds: AxisFolds | None = None
    """What intervals of the axis' cosines are made from; None in runs of older versions."""
    standings: dict[str, Interval] = field(default_factory=dict)
    """Role -> mean projection at the axis' layer in gap units, with its interval over questions;
    empty in maps of earlier versions."""


@dataclass(frozen=True)
class LayerCalibration:
    """Distribution of projections at one layer, raw units."""

    layer: int
    token_percentiles: dict[int, float]
    """Assistant-ward percentile -> per-token projection, all rollouts pooled."""
    response_percentiles: dict[int, float]
    """Assistant-ward percentile -> mean projection per response, the paper's unit."""
    default_mean: float
    """Mean per-token projection of default responses."""
    default_sd: float
    bin_edges: tuple[float, ...]
    """Edges of the two histograms, one more than bins."""
    default_share: tuple[float, ...]
    """Share (0 to 1) of default tokens in each bin."""
    role_share: tuple[float, ...]
    """Share (0 to 1) of role tokens in each bin."""


@dataclass(frozen=True)
class PricedSetting:
    """A setting of floors with its price (on default answers) and effect (on role answers)."""

    floors: Floors
    percentile: float | None
    """Assistant-ward percentile, None where the floor is default mean − k·SD."""
    nominal_firing: dict[int, float]
    """Layer -> share (0 to 1) of calibration tokens under the floor, unsteered."""
    realised_firing: dict[int, float]
    """Layer -> share (0 to 1) of tokens that the floor moved, under the full band."""
    kl_default: float
    """Price: mean KL per token (nats) on the model's own default answers."""
    kl_roles: float
    """The same on role-playing answers."""
    shift_gaps: float
    """Effect: mean rise of role-playing answers' projection at the last layer, gap units."""
    price: Interval | None = None
    """`kl_default` with its 95 % interval over answers; None in old runs, like all below."""
    effect: Interval | None = None
    """`shift_gaps` with its 95 % interval over answers."""
    distance: Interval | None = None
    """How far role-playing answers stay from the default's: 1-Wasserstein distance of their mean
    projections at the last layer from its own unsteered ones, gap units."""
    role_gaps: tuple[float, ...] = ()
    """Mean projection of each role-playing answer at the last layer, gap units."""
    first_share: float | None = None
    """Share (0 to 1) of the whole push that the first token of a conversation takes: of the raw
    lengths by which the floors would move its tokens, unsteered. None where the model runs out of
    reach."""
    default_under: dict[int, float] = field(default_factory=dict)
    """Layer -> share (0 to 1) of the default's own answers whose mean lies under the floor."""
    farther: Interval | None = None
    """Share (0 to 1) of role-playing answers that the floors take farther from the default's mean
    projection at the last layer than they were: pushed past it, or away. None in old runs."""

    @property
    def name(self) -> str:
        """The setting's name."""
        return self.floors.name

    @property
    def firing_rate(self) -> float:
        """Realised share of (token, layer) slots that were moved."""
        return sum(self.realised_firing.values()) / len(self.realised_firing)

    @property
    def is_free(self) -> bool:
        """Whether no answer that was priced cost anything.

        `price` then has no upper end: costs have no bound, so no sample of answers that the floors
        leave alone bounds what others cost.
        """
        return self.price is not None and self.price.value == 0

    def is_within(self, bound: float) -> bool:
        """Whether the price is shown to be within a bound: by its interval's upper end.

        Floors that moved none of the default's answers are within any.
        """
        if self.price is None or self.is_free:
            return self.kl_default <= bound
        return self.price.high <= bound


@dataclass(frozen=True)
class Calibration:
    """Distributions of projections, the settings tried, and the setting chosen."""

    layers: tuple[LayerCalibration, ...]
    settings: tuple[PricedSetting, ...]
    chosen: str
    """Name of the default setting: the closest to the default whose price stays under the bound."""
    price_bound: float
    """Highest mean KL per token (nats) accepted on default answers."""
    warnings: tuple[str, ...] = ()
    answers: int = 200
    """Highest number of answers of each kind, default and role, that were read."""
    seed: int = 0
    """Decides which answers were read."""
    pool: Literal["balanced", "paper"] = "balanced"
    """Answers of which percentiles were taken: see `CalibrateSettings.pool`."""
    default_gaps: tuple[float, ...] = ()
    """Mean projection of each priced default answer at the last layer, unsteered, gap units."""
    role_gaps: tuple[float, ...] = ()
    """The same of each priced role-playing answer."""
    uncapped_distance: float | None = None
    """How far these two are apart without floors, as `PricedSetting.distance`."""
    cut_share: float | None = None
    """Share (0 to 1) of the answers read that were cut off at the token limit; None in calibrations
    of earlier versions."""

    @property
    def setting(self) -> PricedSetting:
        """The chosen setting."""
        return next(s for s in self.settings if s.name == self.chosen)


@dataclass(frozen=True)
class TurnLevels:
    """Levels of default conversations turn by turn, at one layer, gap units."""

    layer: int
    means: tuple[float, ...]
    """By 0-based turn, at least one; later turns are expected where the last one is."""
    spreads: tuple[float, ...]
    """Standard deviation of a conversation's level at that turn."""
    counts: tuple[int, ...]
    """Conversations that the two are known from."""
    source: str = ""
    """Which conversations, in words."""
    system_sha256: str | None = None
    """Hash of the system prompt that they stood under; None where they differ."""

    def expected_at(self, turn: int) -> float:
        """Level that a default conversation has at a 0-based turn."""
        return self.means[min(turn, len(self.means) - 1)]

    def fits_system(self, system: str | None) -> bool:
        """Whether a conversation stands under their system prompt; True where they differ."""
        return self.system_sha256 in (None, system_hash(system))


@dataclass(frozen=True)
class TurnReading:
    """Projection of one assistant turn on the axis."""

    turn: int
    """0-based number among the conversation's assistant turns."""
    projection: float
    """Mean over the turn's content tokens, raw."""
    gaps: float
    """The same in gap units: 0 role mean, 1 default mean."""
    token_projections: tuple[float, ...]
    """Per content token, raw."""
    text: str
    is_below_floor: bool | None = None
    """Whether the turn's mean lies below the floor; None where there is no floor at this layer. A
    floor is for single tokens: most means of default answers may lie below it."""
    lowest_usual_gaps: float | None = None
    """Gap units that all but a stated share of default answers reach: of a first turn those of its
    length, of a later one those at its turn; None where the run cannot tell."""
    is_cut: bool | None = None
    """Whether the answer was cut off at the token limit; None where the turn was given."""
    expected_gaps: float | None = None
    """Level that default conversations have at this turn; None where the run does not know it."""
    gaps_alone: float | None = None
    """The same words read behind their message alone, without what was said before; None where
    that was not read."""

    @property
    def is_low(self) -> bool:
        """Whether the turn is marked: lower than default answers usually are at its turn.

        Conversations fall by themselves: a later turn is marked only where it is known how far.
        """
        if self.lowest_usual_gaps is None or (self.turn > 0 and self.expected_gaps is None):
            return False
        return self.gaps < self.lowest_usual_gaps

    @property
    def mark(self) -> str:
        """What a low turn is called."""
        return "unusually low" if self.turn == 0 else f"unusually low for turn {self.turn + 1}"


@dataclass(frozen=True)
class DriftReading:
    """Projections of one conversation's assistant turns on the axis, in order."""

    conversation_id: str
    layer: int
    turns: tuple[TurnReading, ...]
    floor: float | None = None
    """Raw floor at `layer`, where the run has one."""
    unread: tuple[int, ...] = ()
    """Turns without a content token, which have no projection; counted as `TurnReading.turn`."""
    false_alarms: Interval | None = None
    """Share (0 to 1) of default answers to single questions that would be marked as low, and where
    it may lie in truth; None where the run knows too few to mark any."""


@dataclass(frozen=True)
class ReplayedAnswer:
    """One answer of a replay: what is read of it, and what the next turn goes on from."""

    text: str
    token_ids: tuple[int, ...]
    projections: tuple[float, ...]
    """Per content token, raw, at the replay's layer."""
    is_cut: bool


@dataclass(frozen=True)
class ReplayedMessage:
    """One user message as both arms of a replay answered it in every draw.

    These, in order, are all that an interrupted replay needs to go on.
    """

    uncapped: tuple[ReplayedAnswer, ...]
    capped: tuple[ReplayedAnswer, ...]
    fired: dict[int, int]
    """Layer -> tokens that the floors moved in the capped answers."""
    slots: dict[int, int]
    """Layer -> tokens on which they could act."""


@dataclass(frozen=True)
class ReplaySpread:
    """One turn over several draws of a replay, gap units; intervals are over draws."""

    uncapped: Interval
    capped: Interval
    difference: Interval
    """Capped minus uncapped, draw by draw."""
    draws: int
    """That both arms answered."""


@dataclass(frozen=True)
class ReplayTurn:
    """One user message with its uncapped and its capped answer."""

    user: str
    uncapped: TurnReading
    capped: TurnReading
    spread: ReplaySpread | None = None
    """Over all draws, of which the answers are the first; None where there was one."""

    @property
    def mean_gaps(self) -> tuple[float, float]:
        """Uncapped and capped level, gap units: the mean over draws, where there are several."""
        if self.spread is None:
            return self.uncapped.gaps, self.capped.gaps
        return self.spread.uncapped.value, self.spread.capped.value


@dataclass(frozen=True)
class Replay:
    """A conversation's user messages answered again, uncapped and capped.

    Each arm has its own history.
    """

    conversation_id: str
    layer: int
    floor: float | None
    setting: str
    """Name of the capped arm's setting of floors."""
    turns: tuple[ReplayTurn, ...]
    firing_rate: float
    """Share (0 to 1) of (token, layer) slots moved in the capped arm."""
    unread: tuple[int, ...] = ()
    """Turns to which an arm gave no content token; counted as `TurnReading.turn`."""
    false_alarms: Interval | None = None
    """Share (0 to 1) of default answers to single questions that would be marked as low, and where
    it may lie in truth; None where the run knows too few to mark any."""
    draws: int = 1
    """Conversations that went on side by side in each arm."""
    ended: str = ""
    """Why it ended before the last user message; empty where it did not."""

    @property
    def lowered(self) -> int:
        """Number of turns that lie lower capped than uncapped, by their means over draws."""
        return sum(capped < uncapped for uncapped, capped in (t.mean_gaps for t in self.turns))
