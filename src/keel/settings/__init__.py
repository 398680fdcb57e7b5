"""Every stage's settings, written once, with defaults from the paper.

Each is a frozen dataclass that checks itself; under each field stands what it decides. Commands,
their help, the docs and Python take names, defaults and sentences from here. Loads no torch.
"""

from keel.settings.calibrate import Band, CalibrateSettings, ScreenLimits, SweepGrid, SweepSettings
from keel.settings.compare import CompareSettings
from keel.settings.engines import ClusterSettings, LoadSettings, VllmSettings
from keel.settings.evaluate import CapabilitySettings
from keel.settings.extract import (
    PROMPTS_PER_ROLE,
    Counting,
    ExtractSettings,
    MapSettings,
    PromptSettings,
    Sampling,
    Scale,
    TraitSettings,
    What,
    settings_for,
)
from keel.settings.judging import EndpointLimits

__all__ = [
    "PROMPTS_PER_ROLE",
    "Band",
    "CalibrateSettings",
    "CapabilitySettings",
    "ClusterSettings",
    "CompareSettings",
    "Counting",
    "EndpointLimits",
    "ExtractSettings",
    "LoadSettings",
    "MapSettings",
    "PromptSettings",
    "Sampling",
    "Scale",
    "ScreenLimits",
    "SweepGrid",
    "SweepSettings",
    "TraitSettings",
    "VllmSettings",
    "What",
    "settings_for",
]
