"""Opens an engine by name, and parses engine names such as `vllm:tensor_parallel_size=4`."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from keel.engines.catalogue import check_names_model
from keel.errors import UsageError
from keel.settings import LoadSettings, VllmSettings

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


def settings_class(engine: str) -> type[Any]:
    """The settings class of an engine. Raises UsageError for an unknown engine."""
    classes: dict[str, type[Any]] = {"transformers": LoadSettings, "vllm": VllmSettings}
    if engine not in classes:
        raise UsageError(f"engine is {engine!r}, expected 'transformers' or 'vllm'")
    return classes[engine]


def parse_engine(text: str) -> tuple[str, dict[str, Any]]:
    """An engine's name and settings from `NAME` or `NAME:SETTING=VALUE,SETTING=VALUE`.

    Only settings that are a single word or number can be given so. Raises UsageError for an unknown
    engine, a setting that it does not have, and a value of another kind.

    >>> parse_engine("vllm:tensor_parallel_size=4,eager=true")
    ('vllm', {'tensor_parallel_size': 4, 'eager': True})
    """
    engine, _, rest = text.partition(":")
    settings = settings_class(engine)
    values: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        name, is_set, value = part.partition("=")
        if not is_set or name in values:
            raise UsageError(f"engine is {text!r}: {part!r} is not NAME=VALUE, each name once")
        values[name] = value
    known = {field.name for field in fields(settings)} - {"layers", "arguments"}
    if unknown := sorted(set(values) - known):
        raise UsageError(
            f"the {engine} engine has no setting {', '.join(unknown)}; there are "
            f"{', '.join(sorted(known))}"
        )
    try:
        parsed = TypeAdapter(settings).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise UsageError(f"{name} is {values[name]!r}: {first['msg'].lower()}") from error
    return engine, {name: getattr(parsed, name) for name in values}
