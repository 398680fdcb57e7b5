"""Keel inside vLLM: a plugin that steers and records per request, and the engine that uses it."""

from keel.engines.vllm.deployment import Deployment, ServeEnvironment
from keel.engines.vllm.engine import VllmEngine, load_engine
from keel.engines.vllm.front import FACTS_PATH, SETTING_HEADER
from keel.engines.vllm.gate import Gate, ServerAddress
from keel.engines.vllm.naming import CANDIDATE_HEADER, PROBE_HEADER
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.plugin import FRONT, check_version
from keel.engines.vllm.serving import (
    check_weights,
    deployment_for,
    line_of,
    settings_of,
    vllm_version,
)
from keel.settings import VllmSettings

__all__ = [
    "CANDIDATE_HEADER",
    "FACTS_PATH",
    "FRONT",
    "PROBE_HEADER",
    "SETTING_HEADER",
    "Deployment",
    "Gate",
    "PackedInterventions",
    "ServeEnvironment",
    "ServerAddress",
    "VllmEngine",
    "VllmSettings",
    "check_version",
    "check_weights",
    "deployment_for",
    "line_of",
    "load_engine",
    "settings_of",
    "vllm_version",
]
