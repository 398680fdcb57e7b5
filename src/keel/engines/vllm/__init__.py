"""Keel inside vLLM: a plugin that steers and records per request, and the engine that uses it."""

from keel.engines.vllm.deployment import Deployment, ServeEnvironment
from keel.engines.vllm.engine import VllmEngine, load_engine
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.plugin import check_version
from keel.settings import VllmSettings

__all__ = [
    "Deployment",
    "PackedInterventions",
    "ServeEnvironment",
    "VllmEngine",
    "VllmSettings",
    "check_version",
    "load_engine",
]
