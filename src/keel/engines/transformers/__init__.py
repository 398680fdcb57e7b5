"""The engine that runs on transformers."""

from keel.engines.transformers.engine import TransformersEngine
from keel.engines.transformers.loading import LoadedModel, load_engine, load_model
from keel.settings import LoadSettings

__all__ = ["LoadSettings", "LoadedModel", "TransformersEngine", "load_engine", "load_model"]
