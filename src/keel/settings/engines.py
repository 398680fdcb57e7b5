"""How a model is loaded, by which engine, and on which machines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from keel.errors import UsageError
from keel.settings.flags import MODEL, SPEED, Flag

_DTYPES = ("auto", "bfloat16", "float16", "float32")
_DEVICE = re.compile(r"auto|map|(?:cpu|cuda|mps|xpu|hpu|npu|mtia|xla)(?::\d+)?")
"""What `--device` may say; whether the machine has it, torch knows."""


@dataclass(frozen=True)
class LoadSettings:
    """How a model is loaded."""

    device: Annotated[str, Flag("--device", MODEL)] = "auto"
    """`auto` (CUDA where there is one, else CPU), `cpu`, `cuda`, `cuda:1`, `mps`, or `map` to
    spread one model over all GPUs (needs accelerate)."""
    dtype: Annotated[str, Flag("--dtype", MODEL)] = "auto"
    """`auto` (bfloat16 where the hardware is fast at it, else float32), `bfloat16`, `float16`,
    `float32`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    blocks: Annotated[str | None, Flag("--blocks", MODEL)] = None
    """Dotted path of the list of decoder blocks, where the search for it fails."""
    trust_remote_code: Annotated[bool, Flag("--trust-remote-code", MODEL)] = False
    """Run the Python code that comes with the model."""
    static: bool = False
    """Generate over a cache of fixed size, on CUDA with each step captured as a graph: the same
    answers, sooner. Where a model does not allow it, it is not done, and a warning says why."""

    def __post_init__(self) -> None:
        _check_dtype(self.dtype)
        if not _DEVICE.fullmatch(self.device):
            raise UsageError(
                f"device is {self.device!r}, expected auto, cpu, cuda, cuda:1, mps or map"
            )


@dataclass(frozen=True)
class DoctorSettings:
    """How a model is examined."""

    is_shape_only: Annotated[bool, Flag("--shape-only")] = False
    """Needs config and tokenizer, no weights: examines a small random model of the same
    architecture."""
    load: LoadSettings = field(default_factory=LoadSettings)


@dataclass(frozen=True)
class OpeningSettings:
    """Which engine runs a model, and how it loads it."""

    engine: Annotated[str, Flag("--engine", MODEL, metavar="NAME[:SETTING=VALUE,...]")] = (
        "transformers"
    )
    """`transformers` (on a GPU sooner as `transformers:static=true`), or `vllm` for scale (see
    docs/vllm.md), as `vllm:eager=true`."""
    load: LoadSettings = field(default_factory=LoadSettings)

    def __post_init__(self) -> None:
        self.arguments  # refused before a model is looked for  # noqa: B018

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `open_engine`. Raises UsageError for options that the engine has not."""
        name, own = parse_engine(self.engine)
        load = self.load
        common = {"engine": name, "dtype": load.dtype, "trust_remote_code": load.trust_remote_code}
        if name != "vllm":
            common |= {"device": load.device, "blocks": load.blocks}
        elif load.device != "auto" or load.blocks is not None:
            raise UsageError(
                "vLLM chooses device and blocks itself; leave out --device and --blocks"
            )
        twice = sorted(common.keys() & own.keys())
        if twice:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in twice)
            raise UsageError(f"give {options} as an option of its own, not behind --engine")
        return {**common, **own}


@dataclass(frozen=True)
class VllmSettings:
    """How vLLM is started."""

    dtype: str = "auto"
    """`auto` (the model's own), `bfloat16`, `float16`, `float32`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the model."""
    max_model_len: int | None = None
    """Longest conversation in tokens; None for the model's own."""
    tensor_parallel_size: int = 1
    """Devices that share each layer."""
    eager: bool = False
    """Do not compile: starts sooner, runs slower."""
    layers: tuple[int, ...] | None = None
    """Layers that can be steered; None for all."""
    recordings: int = 256
    """Answers recorded, and therefore in work, at once. Each takes a row of float32 per layer: of a
    70B model 2.7 MB."""
    probes: int = 4
    """Directions per layer on which projections can be taken at once."""
    steps: int = 2
    """Interventions at one layer."""
    settings: int = 16
    """Settings held at once."""
    memory_share: float | None = None
    """Of the device's memory (0 to 1); None for vLLM's own on a GPU and 0.4 on a CPU, which other
    programs use as well."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `vllm.LLM`."""

    def __post_init__(self) -> None:
        _check_dtype(self.dtype)


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
    return engine, _read(settings, values) if values else {}


def _read(settings: type[Any], values: Mapping[str, str]) -> dict[str, Any]:
    """Words as values of the fields' kinds. Raises UsageError for a word that is none."""
    from pydantic import TypeAdapter, ValidationError  # takes as long as the rest of `keel --help`

    try:
        parsed = TypeAdapter(settings).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise UsageError(f"{name} is {values[name]!r}: {first['msg'].lower()}") from error
    return {name: getattr(parsed, name) for name in values}


def _check_dtype(dtype: str) -> None:
    """Raise UsageError for a dtype that no engine computes in."""
    if dtype not in _DTYPES:
        raise UsageError(f"dtype is {dtype!r}, expected {', '.join(_DTYPES)}")


@dataclass(frozen=True)
class ClusterSettings:
    """Which cluster, and how many engines on it."""

    address: Annotated[str, Flag("--cluster", SPEED, metavar="ADDRESS")] = "auto"
    """Ray cluster that answers: `auto` (the one that this machine belongs to), HOST:PORT of its
    head, or `local` (this machine alone, started for the run)."""
    actors: Annotated[int | None, Flag("--actors", SPEED, least=1)] = None
    """Engines on the cluster; else as many as there is room for."""
    gpus: Annotated[int | None, Flag("--actor-gpus", SPEED, least=0)] = None
    """GPUs of each engine, of one machine; else 1 where there are any."""

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise UsageError(f"actors is {self.actors}, expected 1 or more")
        if self.gpus is not None and self.gpus < 0:
            raise UsageError(f"gpus is {self.gpus}, expected 0 or more")
