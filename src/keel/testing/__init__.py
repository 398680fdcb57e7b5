"""Fakes and tiny models for tests: ours, and those of packages that build on Keel."""

from keel.doctor import model_types, shrunken_config, shrunken_model
from keel.testing.fake_engine import FakeEngine, Reply, echo, scripted
from keel.testing.planted import PlantedStream
from keel.testing.tiny_models import TINY_FAMILIES, save_tiny_model, tiny_model, tiny_tokenizer

__all__ = [
    "TINY_FAMILIES",
    "FakeEngine",
    "PlantedStream",
    "Reply",
    "echo",
    "model_types",
    "save_tiny_model",
    "scripted",
    "shrunken_config",
    "shrunken_model",
    "tiny_model",
    "tiny_tokenizer",
]
