"""The engine that runs on transformers."""

from keel.engines.transformers.engine import TransformersEngine
from keel.engines.transformers.loading import LoadSettings, load_engine

__all__ = ["LoadSettings", "TransformersEngine", "load_engine"]
