"""Keel inside vLLM: a plugin that steers and records per request, and the engine that uses it."""

from keel.engines.vllm.deployment import Asked, Deployment
from keel.engines.vllm.engine import VllmEngine
from keel.engines.vllm.loading import load_engine
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.versions import check_version
from keel.settings import VllmSettings

__all__ = [
    "Asked",
    "Deployment",
    "PackedInterventions",
    "VllmEngine",
    "VllmSettings",
    "check_version",
    "load_engine",
]
