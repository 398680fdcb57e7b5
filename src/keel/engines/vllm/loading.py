"""Starts vLLM with Keel in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.engines.catalogue import locate, weights_fingerprint
from keel.engines.vllm.deployment import Deployment
from keel.engines.vllm.engine import VllmEngine
from keel.engines.vllm.plugin import register
from keel.engines.vllm.versions import check_version
from keel.errors import KeelError, ModelLoadError, NotAppliedError, UsageError
from keel.settings import VllmSettings
from keel.types import ModelIdentity


def load_engine(model: str, settings: VllmSettings = VllmSettings()) -> VllmEngine:
    """A vLLM engine for an alias (`smollm2`), a hub id or a local folder.

    Raises MissingExtraError without vLLM or with a version that was not tested, ModelLoadError
    when vLLM cannot load the model, NotAppliedError when Keel does not reach it.
    """
    check_version()
    from vllm import LLM

    register()
    where = locate(model)
    deployment = Deployment(
        layers=settings.layers,
        settings=settings.settings,
        steps=settings.steps,
        recordings=settings.recordings,
        probes=settings.probes,
    )
    try:
        llm = LLM(model=where, **_arguments(settings, deployment))
    except KeelError:
        raise
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"vLLM cannot load {model!r}: {_first_line(error)}") from error
    except RuntimeError as error:
        raise NotAppliedError(f"vLLM did not start with {model!r}: {_first_line(error)}") from error
    return VllmEngine(llm, deployment, identity=_identity(model, where, llm))


def _arguments(settings: VllmSettings, deployment: Deployment) -> dict[str, Any]:
    if settings.tensor_parallel_size < 1:
        raise UsageError(f"tensor_parallel_size is {settings.tensor_parallel_size}, expected 1+")
    return {
        "dtype": settings.dtype,
        "revision": settings.revision,
        "trust_remote_code": settings.trust_remote_code,
        "max_model_len": settings.max_model_len,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enforce_eager": settings.eager,
        "gpu_memory_utilization": settings.memory_share or _usual_share(),
        "disable_log_stats": True,
        # Scheduling ahead runs a token past each answer's end, which must not be recorded.
        **({"async_scheduling": False} if deployment.recordings else {}),
        **({"enable_chunked_prefill": False} if _is_on_cpu() else {}),
        **settings.arguments,
        "additional_config": {
            **settings.arguments.get("additional_config", {}),
            "keel": deployment.to_config(),
        },
    }


def _usual_share() -> float:
    return 0.4 if _is_on_cpu() else 0.9


def _is_on_cpu() -> bool:
    """There vLLM 0.32 dies of a prompt read in parts whose answer is drawn with a seed: it turns
    the seed's generator back by an offset that generators of the CPU do not have.
    """
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _identity(model: str, where: str, llm: Any) -> ModelIdentity:
    config = llm.llm_engine.vllm_config.model_config
    folder = Path(where)
    weights = weights_fingerprint(folder) if folder.is_dir() else ""
    found = ModelIdentity(
        model_id=model,
        layers=int(config.hf_text_config.num_hidden_layers),
        hidden_size=int(config.get_hidden_size()),
        weights_hash=weights,
    )
    return replace(found, revision=str(config.revision or ""))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
