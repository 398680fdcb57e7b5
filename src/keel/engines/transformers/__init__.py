"""The engine that runs on transformers."""

from keel.engines.transformers.engine import TransformersEngine
from keel.engines.transformers.loading import (
    LoadedConfig,
    LoadedModel,
    load_config,
    load_engine,
    load_model,
)
from keel.settings import LoadSettings

__all__ = [
    "LoadSettings",
    "LoadedConfig",
    "LoadedModel",
    "TransformersEngine",
    "load_config",
    "load_engine",
    "load_model",
]
