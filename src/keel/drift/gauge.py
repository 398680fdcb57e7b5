"""Measures a turn's projection onto the axis. Knows nothing of conversations."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from keel.drift.usual import UsualAnswers, lowest_at_turn
from keel.engines import Engine, Probe, Recording
from keel.errors import ModelMismatchError, NotFiniteError, UsageError
from keel.geometry import cosine
from keel.settings import check_false_alarms
from keel.types import (
    AssistantAxis,
    DefaultAnswers,
    Floors,
    Interval,
    TurnLevels,
    TurnReading,
)

_SAME_DIRECTION = 0.999
"""Cosine from which a floor's direction is taken for the axis' own."""

_SLACK_GAPS = 0.01
"""A turn held exactly at its floor may read this much lower by rounding, in bfloat16 above all."""


@dataclass(frozen=True)
class Gauge:
    """The axis at one layer, with a run's floor at that layer."""

    axis: AssistantAxis
    layer: int
    floor: float | None = None
    """Raw; None if there is no floor at this layer along the axis."""
    default_answers: DefaultAnswers | None = None
    """What a first turn is judged against; without them none is marked."""
    levels: TurnLevels | None = None
    """What later turns are judged against, at this layer; without them none is marked."""
    false_alarms: float = 0.05
    """Share (0 to 0.5) of default answers that may be marked as low."""

    def __post_init__(self) -> None:
        check_false_alarms(self.false_alarms)
        last = self.axis.vector.shape[0] - 1
        if not 0 <= self.layer <= last:
            raise UsageError(f"layer is {self.layer}, expected 0 to {last}; choose one of these")
        gap = float(self.axis.gap[self.layer])
        if math.isnan(gap):
            raise UsageError(
                "the axis does not say where default and roles lie; put the default's mean "
                "activations beside its file, as default_vector.pt, or extract an axis of your own"
            )
        if not (math.isfinite(gap) and gap > 0):
            raise UsageError(
                f"at layer {self.layer} the default mean is {gap:.3g} above the role mean, "
                "expected more than 0; choose another layer, or extract an axis that knows both"
            )
        if self.levels is not None and self.levels.layer != self.layer:
            raise UsageError(
                f"levels by turn are of layer {self.levels.layer}, expected layer {self.layer}; "
                "leave them out, or read at theirs"
            )

    @classmethod
    def of(
        cls,
        engine: Engine,
        axis: AssistantAxis,
        *,
        layer: int | None = None,
        floors: Floors | None = None,
        default_answers: DefaultAnswers | None = None,
        levels: TurnLevels | None = None,
        false_alarms: float = 0.05,
    ) -> Gauge:
        """The gauge for an engine, by default at the axis' recommended layer.

        Raises ModelMismatchError where axis or floors were made on another model.
        """
        _check_same_model("axis", axis, engine)
        if floors is not None:
            _check_same_model("floors", floors, engine)
        gauge = cls(
            axis,
            axis.layer if layer is None else layer,
            default_answers=default_answers,
            levels=levels,
            false_alarms=false_alarms,
        )
        return gauge if floors is None else replace(gauge, floor=gauge._floor_of(floors))

    @property
    def recording(self) -> Recording:
        """What an engine must record for this gauge: one column of projections."""
        return Recording(probes=(Probe(self.layer, self.axis.direction[self.layer]),))

    @property
    def floor_gaps(self) -> float | None:
        """The floor in gap units."""
        return None if self.floor is None else self.in_gaps(self.floor)

    @property
    def stated_false_alarms(self) -> Interval | None:
        """Share (0 to 1) of default answers that are marked; None where too few are known."""
        return None if self._usual is None else self._usual.rate(self.false_alarms)

    def in_gaps(self, projection: float) -> float:
        """A raw projection in gap units: 0 is the role mean, 1 the default mean."""
        return self.axis.in_gaps(projection, self.layer)

    def reading(
        self, turn: int, projections_TK: Float[Tensor, "token probe"], text: str
    ) -> TurnReading | None:
        """A turn's mean projection, from those of its tokens; None for a turn without tokens.

        Raises NotFiniteError when a projection is NaN or Inf.
        """
        projections_T = projections_TK[:, 0].double().cpu()
        if not len(projections_T):
            return None
        mean = float(projections_T.mean())
        if not math.isfinite(mean):
            raise NotFiniteError(
                f"turn {turn + 1} projects to {mean} at layer {self.layer}, expected a number; "
                "load the model in float32 or bfloat16"
            )
        return TurnReading(
            turn=turn,
            projection=mean,
            gaps=self.in_gaps(mean),
            token_projections=tuple(projections_T.tolist()),
            text=text,
            is_below_floor=None
            if self.floor is None
            else mean < self.floor - _SLACK_GAPS * float(self.axis.gap[self.layer]),
            lowest_usual_gaps=self._lowest(turn, len(projections_T)),
            expected_gaps=None if self.levels is None else self.levels.expected_at(turn),
        )

    def _lowest(self, turn: int, tokens: int) -> float | None:
        """Gap units that default answers of this turn hardly ever lie below, where it is known."""
        if turn == 0:
            usual = self._usual
            return None if usual is None else usual.lowest(tokens, self.false_alarms)
        return None if self.levels is None else lowest_at_turn(self.levels, turn, self.false_alarms)

    @cached_property
    def _usual(self) -> UsualAnswers | None:
        """What default answers are like at this layer."""
        known = self.default_answers
        if known is None:
            return None
        gaps_N = known.gaps_NL[:, self.layer].double().numpy()
        return UsualAnswers(gaps_N, known.tokens_N.numpy(), known.questions_N.numpy())

    def _floor_of(self, floors: Floors) -> float | None:
        """The highest floor at this layer along the axis."""
        direction = self.axis.direction[self.layer]
        values = [
            floor.value
            for floor in floors
            if floor.layer == self.layer
            and math.isfinite(floor.value)
            and float(cosine(floor.direction.cpu(), direction.cpu())) > _SAME_DIRECTION
        ]
        return max(values, default=None)


def _check_same_model(name: str, artefact: AssistantAxis | Floors, engine: Engine) -> None:
    problem = None if artefact.identity is None else artefact.identity.mismatch(engine.identity)
    if problem is not None:
        raise ModelMismatchError(
            f"the {name} belong to another model than the engine's: {problem}; "
            "use those made on this model"
        )
