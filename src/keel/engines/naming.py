"""How an engine is named, and told how to start: `vllm:tensor_parallel_size=4,eager=true`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from keel.errors import UsageError


def settings_class(engine: str) -> type[Any]:
    """What an engine can be told. Raises UsageError for an unknown engine."""
    if engine == "vllm":
        from keel.engines.vllm import VllmSettings

        return VllmSettings
    if engine != "transformers":
        raise UsageError(f"engine is {engine!r}, expected 'transformers' or 'vllm'")
    from keel.engines.transformers import LoadSettings

    return LoadSettings


def parse_engine(given: str) -> tuple[str, dict[str, Any]]:
    """The name, and settings of the engine that stand behind it as NAME=VALUE, comma-separated.

    Only settings of one word or number can be given so. Raises UsageError for an unknown engine, a
    setting that it does not have, and a value of another kind.

    >>> parse_engine("vllm:tensor_parallel_size=4,eager=true")
    ('vllm', {'tensor_parallel_size': 4, 'eager': True})
    """
    engine, _, rest = given.partition(":")
    settings = settings_class(engine)
    told: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        name, is_set, value = part.partition("=")
        if not is_set or name in told:
            raise UsageError(f"engine is {given!r}: {part!r} is not NAME=VALUE, each name once")
        told[name] = value
    return engine, _typed(engine, settings, told)


def _typed(engine: str, settings: type[Any], told: dict[str, str]) -> dict[str, Any]:
    known = {one.name for one in fields(settings)} - {"layers", "arguments"}
    unknown = sorted(set(told) - known)
    if unknown:
        raise UsageError(
            f"the {engine} engine has no setting {', '.join(unknown)}; there are "
            f"{', '.join(sorted(known))}"
        )
    try:
        made = TypeAdapter(settings).validate_python(told)
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][0]
        raise UsageError(f"{name} is {told[str(name)]!r}: {first['msg'].lower()}") from error
    return {name: getattr(made, name) for name in told}
