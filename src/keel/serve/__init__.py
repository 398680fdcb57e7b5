"""Serves a run's model capped and watched: by vLLM over HTTP, and as a model of Inspect's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keel.serve.batching import BatchedAnswer as BatchedAnswer
    from keel.serve.batching import PendingRequest as PendingRequest
    from keel.serve.batching import RequestBatcher as RequestBatcher
    from keel.serve.inspect_scorer import drift_alarm as drift_alarm
    from keel.serve.model import ServedModel as ServedModel
    from keel.serve.model import open_served as open_served
    from keel.serve.probe import ProbeResult as ProbeResult
    from keel.serve.probe import check_server as check_server
    from keel.serve.probe import probe_server as probe_server
    from keel.serve.vllm_server import ServerPlan as ServerPlan
    from keel.serve.vllm_server import plan_server as plan_server
    from keel.serve.vllm_server import run_server as run_server

_MODULES = {
    "BatchedAnswer": "batching",
    "PendingRequest": "batching",
    "RequestBatcher": "batching",
    "ServedModel": "model",
    "drift_alarm": "inspect_scorer",
    "open_served": "model",
    "ProbeResult": "probe",
    "check_server": "probe",
    "probe_server": "probe",
    "ServerPlan": "vllm_server",
    "plan_server": "vllm_server",
    "run_server": "vllm_server",
}

__all__ = [
    "BatchedAnswer",
    "PendingRequest",
    "ProbeResult",
    "RequestBatcher",
    "ServedModel",
    "ServerPlan",
    "check_server",
    "drift_alarm",
    "open_served",
    "plan_server",
    "probe_server",
    "run_server",
]


def __getattr__(name: str) -> Any:
    """Names load on first use: Inspect opens this package to look for models, without torch."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module 'keel.serve' has no attribute {name!r}")
    return getattr(import_module(f"keel.serve.{_MODULES[name]}"), name)
