"""The frozen values that stages hand on to each other.

Knows nothing of files, models or stages. The dimension key, used as suffixes of tensors inside
maths (`hidden_BTD`) and as names in signatures (`Float[Tensor, "layer hidden"]`):

    B batch rows / rollouts   T tokens       L layers (0-based decoder blocks, their *output*)
    D hidden size             R roles        K directions or components
    F question folds          V vocabulary   N anything counted

Signs: a positive projection is towards the Assistant, everywhere.
"""

from keel.settings import Sampling
from keel.types.comparison import (
    DefaultShift,
    RunComparison,
    Shift,
    SpaceComparison,
    VectorComparison,
)
from keel.types.conversation import (
    DEFAULT_ROLE,
    Conversation,
    Judgement,
    Label,
    Message,
    Prompt,
    Rollout,
    Speaker,
    TraitSide,
)
from keel.types.evaluation import (
    UNSTEERED,
    Answered,
    ArmResult,
    EvalResult,
    FirstAnswer,
    Item,
    RateInRange,
    Suite,
)
from keel.types.floors import (
    Floor,
    Floors,
    Intervention,
    ShiftNumbers,
    TokenMask,
    check_direction,
)
from keel.types.grading import Case, Grader, Rubric, RubricLabel, ScoreColumn, Scoring, Verdict
from keel.types.results import (
    Calibration,
    DriftReading,
    Interval,
    LayerCalibration,
    LayerQuality,
    PersonaMap,
    PricedSetting,
    Replay,
    ReplayTurn,
    TurnReading,
)
from keel.types.space import (
    ActivationBatch,
    Activations,
    AssistantAxis,
    ModelIdentity,
    PersonaSpace,
    PersonaVector,
    TraitAxis,
    TraitMap,
    TraitVector,
)
from keel.types.sweep import (
    Change,
    Fate,
    ScreenedSetting,
    ScreenReading,
    Sweep,
    SweepMeasure,
    SweptSetting,
    Unit,
)

__all__ = [
    "DEFAULT_ROLE",
    "UNSTEERED",
    "ActivationBatch",
    "Activations",
    "Answered",
    "ArmResult",
    "AssistantAxis",
    "Calibration",
    "Case",
    "Change",
    "Conversation",
    "DefaultShift",
    "DriftReading",
    "EvalResult",
    "Fate",
    "FirstAnswer",
    "Floor",
    "Floors",
    "Grader",
    "Interval",
    "Intervention",
    "Item",
    "Judgement",
    "Label",
    "LayerCalibration",
    "LayerQuality",
    "Message",
    "ModelIdentity",
    "PersonaMap",
    "PersonaSpace",
    "PersonaVector",
    "PricedSetting",
    "Prompt",
    "RateInRange",
    "Replay",
    "ReplayTurn",
    "Rollout",
    "Rubric",
    "RubricLabel",
    "RunComparison",
    "Sampling",
    "ScoreColumn",
    "Scoring",
    "ScreenReading",
    "ScreenedSetting",
    "Shift",
    "ShiftNumbers",
    "SpaceComparison",
    "Speaker",
    "Suite",
    "Sweep",
    "SweepMeasure",
    "SweptSetting",
    "TokenMask",
    "TraitAxis",
    "TraitMap",
    "TraitSide",
    "TraitVector",
    "TurnReading",
    "Unit",
    "VectorComparison",
    "Verdict",
    "check_direction",
]
