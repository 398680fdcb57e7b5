"""What releases of transformers and torch lack, or call by different names."""

import inspect
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

_IS_NAMED_CACHE = "cache" in inspect.signature(LlamaForCausalLM.forward).parameters
CACHE = "cache" if _IS_NAMED_CACHE else "past_key_values"
"""The argument, and the output, that holds keys and values."""
STATES = "cache" if _IS_NAMED_CACHE else "cache_params"
"""The same of models that hold states in place of keys."""

_IS_NAMED_ACTIVATION = hasattr(PreTrainedModel, "activation_checkpointing_enable")
_CHECKPOINTING = "activation_checkpointing" if _IS_NAMED_ACTIVATION else "gradient_checkpointing"


def enable_checkpointing(model: Any, options: dict[str, Any]) -> None:
    """Let backward compute blocks again, by torch's options for `checkpoint`."""
    getattr(model, f"{_CHECKPOINTING}_enable")(**{f"{_CHECKPOINTING}_kwargs": options})


def lack_of(family: str) -> str:
    """Why a family cannot be built or run here; empty where it can."""
    if family in ("hy_v4", "glm5_next") and family not in CONFIG_MAPPING_NAMES:
        return f"this release of transformers has no {family}"
    if family == "qwen4_exp" and not _scatters_by_int32():
        return "transformers' own code of it scatters by int32, which this torch does not"
    return ""


def _scatters_by_int32() -> bool:
    try:
        torch.zeros(1).scatter(0, torch.zeros(1, dtype=torch.int32), 1.0)
    except RuntimeError:
        return False
    return True
