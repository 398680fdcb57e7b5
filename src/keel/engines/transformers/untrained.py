"""A model of another's shape whose weights are random: what any network of that shape does."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from keel.engines.transformers.engine import TransformersEngine
from keel.errors import ModelLoadError, UsageError
from keel.words import first_line


def untrained_like(engine: TransformersEngine, seed: int) -> TransformersEngine:
    """An engine on a new model of the same class and config, with the same tokenizer and dtype.

    Its weights are drawn as its class draws them before training, on the CPU, so that a seed gives
    the same model everywhere. Both models are in memory at once. Raises UsageError where the model
    is spread over several devices, ModelLoadError where transformers cannot make another.
    """
    model = engine.model
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        raise UsageError(
            "the model is spread over several devices, and an untrained one of its shape cannot "
            "be; give one device (--device), or leave out --null untrained"
        )
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            untrained = type(model)._from_config(config, dtype=model.dtype)
    except Exception as error:  # each architecture has its own
        raise ModelLoadError(
            f"no untrained {type(model).__name__} can be made of its config: {first_line(error)}; "
            "leave out --null untrained"
        ) from error
    untrained.generation_config = copy.deepcopy(model.generation_config)
    made = TransformersEngine(untrained.to(engine.device), engine.tokenizer)
    made.budget = engine.budget
    model_id = f"{engine.identity.model_id} with random weights, seed {seed}"
    made.identity = replace(made.identity, model_id=model_id)
    return made
