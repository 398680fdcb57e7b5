"""Where a model runs: one Protocol, one package per engine."""

from __future__ import annotations

from typing import Any

from keel.engines.catalogue import EMBEDDED, cache_folder, spoken_name
from keel.engines.chat_template import ChatTemplate, Transcript, Turn
from keel.engines.naming import parse_engine, settings_class
from keel.engines.protocol import Batch, Budget, Engine, LocalModel, Recording
from keel.engines.results import Calls, Completion, Divergence, Reading, Results, TurnRecord
from keel.engines.stopping import text_before
from keel.steering import Probe

__all__ = [
    "EMBEDDED",
    "Batch",
    "Budget",
    "Calls",
    "ChatTemplate",
    "Completion",
    "Divergence",
    "Engine",
    "LocalModel",
    "Probe",
    "Reading",
    "Recording",
    "Results",
    "Transcript",
    "Turn",
    "TurnRecord",
    "cache_folder",
    "open_engine",
    "parse_engine",
    "settings_class",
    "spoken_name",
    "text_before",
]


def open_engine(model: str, engine: str = "transformers", **settings: Any) -> Engine:
    """An engine for an alias (`smollm2`), a hub id or a local folder.

    `settings` are those of the engine, for transformers: device, dtype, revision, blocks,
    trust_remote_code; for vLLM the fields of `keel.engines.vllm.VllmSettings`. Raises UsageError
    for an unknown engine, ModelLoadError for an unknown model.
    """
    told = settings_class(engine)(**settings)
    if engine == "vllm":
        from keel.engines.vllm import load_engine as load_vllm

        return load_vllm(model, told)
    from keel.engines.transformers import load_engine

    return load_engine(model, told)
