"""Every stage's settings, written once, with defaults from the paper.

Each is a frozen dataclass that checks itself; under each field stands what it decides. Commands,
their help, the docs and Python take names, defaults and sentences from here. Loads no torch.
"""

from keel.settings.alarm import STATISTICS, AlarmSettings, Statistic, WatchSettings
from keel.settings.analysis import (
    AxisSource,
    ChatSettings,
    CompareSettings,
    DriftSettings,
    Orientation,
    check_false_alarms,
)
from keel.settings.calibrate import (
    Band,
    CalibrateSettings,
    ScreenLimits,
    SweepGrid,
    SweepSettings,
    SweepSources,
)
from keel.settings.engines import (
    ClusterSettings,
    DoctorSettings,
    LoadSettings,
    OpeningSettings,
    VllmSettings,
)
from keel.settings.evaluate import CapabilitySettings, EvaluateSettings
from keel.settings.extract import (
    PROMPTS_PER_ROLE,
    Counting,
    ExtractSettings,
    ExtractSources,
    MapSettings,
    NullSettings,
    PromptSettings,
    Sampling,
    Scale,
    Spans,
    ThroughputSettings,
    TraitSettings,
    What,
    settings_for,
)
from keel.settings.flags import (
    JUDGING,
    MODEL,
    OUTPUT,
    SPEED,
    SWEEP,
    TASKS,
    Flag,
    FlaggedField,
    flagged_fields,
    sentences,
)
from keel.settings.judging import EndpointLimits, GraderSettings, JudgeSettings, LabelSettings
from keel.settings.report import TrackingSettings
from keel.settings.serve import CheckSettings, ServeSettings, UiSettings
from keel.settings.studies import DriftStudySettings

__all__ = [
    "JUDGING",
    "MODEL",
    "OUTPUT",
    "PROMPTS_PER_ROLE",
    "SPEED",
    "STATISTICS",
    "SWEEP",
    "TASKS",
    "AlarmSettings",
    "AxisSource",
    "Band",
    "CalibrateSettings",
    "CapabilitySettings",
    "ChatSettings",
    "CheckSettings",
    "ClusterSettings",
    "CompareSettings",
    "Counting",
    "DoctorSettings",
    "DriftSettings",
    "DriftStudySettings",
    "EndpointLimits",
    "EvaluateSettings",
    "ExtractSettings",
    "ExtractSources",
    "Flag",
    "FlaggedField",
    "GraderSettings",
    "JudgeSettings",
    "LabelSettings",
    "LoadSettings",
    "MapSettings",
    "NullSettings",
    "OpeningSettings",
    "Orientation",
    "PromptSettings",
    "Sampling",
    "Scale",
    "ScreenLimits",
    "ServeSettings",
    "Spans",
    "Statistic",
    "SweepGrid",
    "SweepSettings",
    "SweepSources",
    "ThroughputSettings",
    "TrackingSettings",
    "TraitSettings",
    "UiSettings",
    "VllmSettings",
    "WatchSettings",
    "What",
    "check_false_alarms",
    "flagged_fields",
    "sentences",
    "settings_for",
]
