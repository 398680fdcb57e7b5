"""How a model is loaded, by which engine, and on which machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from keel.errors import UsageError
from keel.settings.flags import MODEL, SPEED, Flag


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
