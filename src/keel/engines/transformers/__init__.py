"""The engine that runs on transformers."""

from keel.engines.transformers.engine import TransformersEngine
from keel.engines.transformers.loading import load_engine
from keel.settings import LoadSettings

__all__ = ["LoadSettings", "TransformersEngine", "load_engine"]
