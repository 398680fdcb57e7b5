"""Opens an engine by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keel.engines.catalogue import check_names_model
from keel.errors import UsageError
from keel.settings import settings_class

if TYPE_CHECKING:
    from keel.engines.protocol import Engine


def open_engine(model: str, engine: str = "transformers", **settings: Any) -> Engine:
    """Load a model into an engine: an alias (`smollm2`), a hub id or a local folder.

    `settings` are those of the engine, for transformers: device, dtype, revision, blocks,
    trust_remote_code; for vLLM the fields of `keel.settings.VllmSettings`. Raises UsageError
    for an unknown engine, ModelLoadError for an unknown model.
    """
    engine_settings = settings_class(engine)(**settings)
    check_names_model(model)  # before the engines' libraries load, which takes seconds
    if engine == "vllm":
        from keel.engines.vllm import load_engine as load_vllm

        return load_vllm(model, engine_settings)
    from keel.engines.transformers import load_engine

    return load_engine(model, engine_settings)


def open_untrained(engine: Engine, seed: int) -> Engine:
    """An engine on a model of the same shape, its weights drawn with the seed.

    Raises UsageError for an engine whose model is not in this process, as vLLM's is not.
    """
    check_untrained(engine)
    from keel.engines.transformers.untrained import untrained_like

    return untrained_like(engine, seed)  # type: ignore[arg-type]


def check_untrained(engine: object) -> None:
    """Raise UsageError where no untrained model of the engine's can be made."""
    if getattr(engine, "local_model", None) is None:
        raise UsageError(
            f"{type(engine).__name__} has no model in this process of which an untrained one could "
            "be made; extract with --engine transformers, or leave out --null untrained"
        )
