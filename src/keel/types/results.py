"""Results of the stages: quality of an axis, the price of a floor, drift of a conversation."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from keel.types.floors import Floors
from keel.types.space import AssistantAxis, PersonaSpace, PersonaVector
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
        """`0.88 to 0.94`."""
        return f"{form(self.low)} to {form(self.high)}"


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
    """|cosine| of axis and first principal component."""
    cos_pc1_null: float
    """95th percentile of the same with role labels shuffled."""
    top_dims_share: float
    """Share (0 to 1) of the axis' squared norm in its ten largest dimensions."""


@dataclass(frozen=True)
class PersonaMap:
    """The result of one extraction: role vectors, persona space, axis and its quality."""

    vectors: tuple[PersonaVector, ...]
    """The role vectors that the axis was made of."""
    default_LD: Float[Tensor, "layer hidden"]
    default_count: int
    dropped: dict[str, int]
    """Roles with too few rollouts, left out, with their number of rollouts."""
    axis: AssistantAxis
    space: PersonaSpace
    quality: tuple[LayerQuality, ...]
    """One per layer."""
    warnings: tuple[str, ...] = ()


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

    @property
    def name(self) -> str:
        """The setting's name."""
        return self.floors.name

    @property
    def firing_rate(self) -> float:
        """Realised share of (token, layer) slots that were moved."""
        return sum(self.realised_firing.values()) / len(self.realised_firing)


@dataclass(frozen=True)
class Calibration:
    """Distributions of projections, the settings tried, and the setting chosen."""

    layers: tuple[LayerCalibration, ...]
    settings: tuple[PricedSetting, ...]
    chosen: str
    """Name of the default setting: the strongest whose price stays under the bound."""
    price_bound: float
    """Highest mean KL per token (nats) accepted on default answers."""
    warnings: tuple[str, ...] = ()
    answers: int = 200
    """Highest number of answers of each kind, default and role, that were read."""
    seed: int = 0
    """Decides which answers were read."""

    @property
    def setting(self) -> PricedSetting:
        """The chosen setting."""
        return next(s for s in self.settings if s.name == self.chosen)


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
    """Whether the turn's mean lies below the floor; None where there is no floor at this layer."""


@dataclass(frozen=True)
class DriftReading:
    """Projections of one conversation's assistant turns on the axis, in order."""

    conversation_id: str
    layer: int
    turns: tuple[TurnReading, ...]
    floor: float | None = None
    """Raw floor at `layer`, where the run has one."""


@dataclass(frozen=True)
class ReplayTurn:
    """One user message with its uncapped and its capped answer."""

    user: str
    uncapped: TurnReading
    capped: TurnReading


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
