"""A run folder for a model and an axis from elsewhere, made before a weight is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from keel.engines import cache_folder
from keel.errors import ModelLoadError, UsageError
from keel.seeds import text_hash
from keel.settings import AxisSource, LoadSettings
from keel.store import borrow, keep_borrowed
from keel.types import ModelIdentity


def borrow_run(
    model: str,
    source: AxisSource,
    *,
    setting: str | None = None,
    load: LoadSettings = LoadSettings(),
) -> Path:
    """The folder of a run that holds this axis and its floors for a model, in Keel's cache.

    The same files and model have the same folder, where readings gather. Raises UsageError where
    `model` is a run, ModelMismatchError where the model's config says another shape.
    """
    if (Path(model) / "plan.json").exists():
        raise UsageError(
            f"{model} is a run, which has an axis of its own; give a model before --axis, or leave "
            "out --axis"
        )
    assert source.axis is not None
    borrowed = borrow(
        source.axis,
        declared_identity(model, load),
        floors=source.floors,
        setting=setting,
        orientation=source.orientation,
    )
    key = json.dumps([model, borrowed.facts, borrowed.default], sort_keys=True)
    name = f"{Path(model).name}-{text_hash(key, 12)}"
    return keep_borrowed(borrowed, cache_folder() / "axes" / name, model)


def declared_identity(model: str, load: LoadSettings) -> ModelIdentity:
    """What a model's config says of its shape; weights and template are not looked at.

    Raises ModelLoadError for a model that is not there, and for a config without these numbers.
    """
    from keel.engines.transformers import load_config  # seconds, which no other command needs

    config = load_config(model, load).config
    text = config.get_text_config(decoder=True)
    layers = getattr(text, "num_hidden_layers", None)
    hidden_size = getattr(text, "hidden_size", None)
    if layers is None or hidden_size is None:
        raise ModelLoadError(
            f"the config of {model} does not say its number of layers and their width; make a run "
            f"of it instead: keel extract {model} -o RUN"
        )
    return ModelIdentity(model, layers=int(layers), hidden_size=int(hidden_size))
