"""How Keel is configured in a vLLM engine before its model is loaded. Knows no vLLM.

It travels in vLLM's `additional_config`, which every process of the engine gets and which is part
of vLLM's compile cache key: what changes the traced graph must be in it, and vectors and
thresholds must not, so that they change without compiling again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from keel.errors import UsageError

KEY = "keel"
"""Name of our entry in `additional_config`, and of the request argument that names a setting."""
OFF = "none"
"""The setting that leaves the model as it is."""
GRAPH_VERSION = 3
"""Raise it when what is traced changes: a cached graph of an older Keel must not be loaded."""


@dataclass(frozen=True)
class Deployment:
    """How Keel is wired into one engine. Settings are registered afterwards, by name."""

    layers: tuple[int, ...] | None
    """Layers that can be steered; None for all."""
    is_global: bool = False
    """One setting for every token of the engine, with no map from tokens to requests."""
    settings: int = 16
    """Settings that can be registered at once."""
    steps: int = 2
    """Interventions that a setting can have at one layer."""
    recordings: int = 0
    """Turns that can be recorded at once; 0 leaves recording out of the graph."""
    probes: int = 0
    """Directions per layer on which per-token projections can be recorded."""
    default: str = OFF
    """Setting of a request that names none."""
    is_enforced: bool = False
    """Whether requests that name a setting are refused."""
    graph_version: int = GRAPH_VERSION

    def __post_init__(self) -> None:
        if self.settings < 1 or self.steps < 1:
            raise UsageError("a deployment holds one setting of one step or more")
        if self.recordings < 0 or self.probes < 0:
            raise UsageError(
                f"{self.recordings} recordings and {self.probes} probes, expected 0 or more"
            )
        if self.is_global and (self.recordings or self.probes):
            raise UsageError("a global deployment has no map of requests and cannot record them")

    def to_config(self) -> dict[str, Any]:
        """The entry in vLLM's `additional_config`."""
        return {**asdict(self), "layers": None if self.layers is None else list(self.layers)}

    @classmethod
    def from_config(cls, config: object) -> Deployment | None:
        """The deployment in an `additional_config`; None where there is none."""
        entry = config.get(KEY) if isinstance(config, Mapping) else None
        if entry is None:
            return None
        known = {field.name for field in fields(cls)}
        is_ours = isinstance(entry, Mapping) and set(entry) == known
        if not is_ours or entry["graph_version"] != GRAPH_VERSION:
            raise UsageError(
                f"additional_config[{KEY!r}] is not this Keel's; let Keel write it, and install "
                "the same version on all machines"
            )
        layers = entry["layers"]
        return cls(**{**entry, "layers": None if layers is None else tuple(layers)})


@dataclass(frozen=True)
class ServeEnvironment:
    """The environment variables that a `vllm serve` with Keel installed obeys."""

    floors: str
    """`KEEL_FLOORS`: a run folder, a floors file, or a hub id."""
    setting: str | None
    """`KEEL_SETTING`: which setting of it is the default; None for the file's own."""
    is_enforced: bool
    """`KEEL_ENFORCE=1`: requests may not choose."""
    canary_s: float
    """`KEEL_CANARY_MINUTES`, in seconds: how often to repeat the self-test; 0 never."""

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> ServeEnvironment | None:
        """The variables as set; None where `KEEL_FLOORS` is not, and Keel stays out.

        Raises UsageError for a value that makes no sense, and where floors are missing for one.
        """
        floors = environment.get("KEEL_FLOORS", "")
        if not floors:  # a mistyped name must not serve uncapped
            for name in ("KEEL_SETTING", "KEEL_ENFORCE", "KEEL_CANARY_MINUTES"):
                if environment.get(name, "0") not in ("", "0"):
                    raise UsageError(
                        f"{name} is {environment[name]!r}, but KEEL_FLOORS does not say what to "
                        "hold"
                    )
            return None
        enforce = environment.get("KEEL_ENFORCE", "0")
        if enforce not in ("0", "1"):
            raise UsageError(f"KEEL_ENFORCE is {enforce!r}, expected 0 or 1")
        canary = environment.get("KEEL_CANARY_MINUTES", "0")
        try:
            minutes = float(canary)
        except ValueError:
            minutes = math.nan
        if not 0 <= minutes < math.inf:
            raise UsageError(f"KEEL_CANARY_MINUTES is {canary!r}, expected a number of 0 or more")
        return cls(floors, environment.get("KEEL_SETTING") or None, enforce == "1", 60 * minutes)
