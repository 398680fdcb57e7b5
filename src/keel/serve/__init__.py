"""Serves a run's model capped and watched, as a model of Inspect's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keel.serve.batching import BatchedAnswer as BatchedAnswer
    from keel.serve.batching import PendingRequest as PendingRequest
    from keel.serve.batching import RequestBatcher as RequestBatcher
    from keel.serve.model import ServedModel as ServedModel
    from keel.serve.model import open_served as open_served

_MODULES = {
    "BatchedAnswer": "batching",
    "PendingRequest": "batching",
    "RequestBatcher": "batching",
    "ServedModel": "model",
    "open_served": "model",
}

__all__ = ["BatchedAnswer", "PendingRequest", "RequestBatcher", "ServedModel", "open_served"]


def __getattr__(name: str) -> Any:
    """Names load on first use: Inspect opens this package to look for models, without torch."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module 'keel.serve' has no attribute {name!r}")
    return getattr(import_module(f"keel.serve.{_MODULES[name]}"), name)
