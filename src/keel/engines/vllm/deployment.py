"""How Keel is configured in a vLLM engine before its model is loaded. Knows no vLLM.

It travels in vLLM's `additional_config`, which every process of the engine gets and which is part
of vLLM's compile cache key: what changes the traced graph must be in it, and vectors and
thresholds must not, so that they change without compiling again.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from keel.errors import UsageError

KEY = "keel"
"""Name of our entry in `additional_config`, and of the request argument that names a setting."""
OFF = "none"
"""The setting that leaves the model as it is."""
SCRATCH = "keel-self-test"
"""The self-test's own setting."""
CHANGE_MARK = "\x1f"
"""Stands in registered names of settings before the number of the change that brought them."""
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
    watched_layer: int | None = None
    """Layer at which every answer's tokens are projected on an alarm's axis, before anything is
    steered there; None watches nothing, and is not in the graph."""
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
        if self.watched_layer is not None and (self.recordings or self.probes):
            raise UsageError("an engine that watches answers for a server records no turns")
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


KNOWN = (
    *("KEEL_FLOORS", "KEEL_SETTING", "KEEL_ENFORCE", "KEEL_ALLOW", "KEEL_ALLOW_KEYS"),
    *("KEEL_CANARY_MINUTES", "KEEL_ACCEPT_OTHER_WEIGHTS", "KEEL_GATE", "KEEL_ADMIN_KEY_ENV"),
    *("KEEL_ALARM", "KEEL_ALARM_REQUIRED", "KEEL_ALARM_RATE", "KEEL_ALARM_LOG", "KEEL_ALARM_OTEL"),
    *("KEEL_ALARM_WEBHOOK", "KEEL_ALARM_ACTION", "KEEL_WATCH"),
    *("KEEL_CACHE", "KEEL_BENCH_CACHE", "KEEL_UNTESTED_VLLM"),
)
"""Every environment variable of Keel's."""
_KUBERNETES = re.compile(r"KEEL_(SERVICE|PORT)(_.*)?")
"""What Kubernetes sets in every pod beside a service that is called keel."""
_NEEDS_FLOORS = (
    *("KEEL_SETTING", "KEEL_ENFORCE", "KEEL_ALLOW", "KEEL_ALLOW_KEYS", "KEEL_CANARY_MINUTES"),
    *("KEEL_ACCEPT_OTHER_WEIGHTS", "KEEL_ADMIN_KEY_ENV", "KEEL_ALARM"),
)


def check_names(environment: Mapping[str, str]) -> None:
    """Refuse variables that look like Keel's and are not: a typo would serve uncapped.

    Raises UsageError.
    """
    for name in environment:
        if name in KNOWN or _KUBERNETES.fullmatch(name):
            continue
        near = difflib.get_close_matches(name.upper(), KNOWN, n=1, cutoff=0.88)
        if near or name.upper().startswith("KEEL_"):
            meant = near or difflib.get_close_matches(name.upper(), KNOWN, n=1, cutoff=0.0)
            raise UsageError(
                f"{name} is no variable of Keel's, and would be ignored; "
                f"{meant[0]} is, unset or rename it"
            )


@dataclass(frozen=True)
class ServeEnvironment:
    """The environment variables that a `vllm serve` with Keel installed obeys."""

    floors: str
    """`KEEL_FLOORS`: a run folder, a floors file, or a hub id."""
    setting: str | None = None
    """`KEEL_SETTING`: which setting of it is the default; None for the file's own."""
    is_enforced: bool = False
    """`KEEL_ENFORCE=1`: requests may not choose."""
    canary_s: float = 0.0
    """`KEEL_CANARY_MINUTES`, in seconds: how often to repeat the self-test; 0 never."""
    allowed: tuple[str, ...] | None = None
    """`KEEL_ALLOW`: settings, separated by commas, that requests may name beside the default; None
    for any, and for none."""
    key_grants: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """`KEEL_ALLOW_KEYS`: further settings for requests that send a key; `VARIABLE:none,low;...`,
    where the environment variable VARIABLE holds the key."""
    accepts_other_weights: bool = False
    """`KEEL_ACCEPT_OTHER_WEIGHTS=1`: serve a model of the same shape whose weights differ."""
    admin_variable: str | None = None
    """`KEEL_ADMIN_KEY_ENV`: environment variable with the key of those who may change floors while
    the server runs; None where nobody may."""
    alarm: str | None = None
    """`KEEL_ALARM`: the run, or the file, whose alarm watches the conversations; None for none."""
    requires_alarm: bool = False
    """`KEEL_ALARM_REQUIRED=1`: a server that cannot watch does not start."""
    alarm_action: str | None = None
    """`KEEL_ALARM_ACTION`: what is done with the next turn of a conversation that has alarmed."""
    alarm_rate: float | None = None
    """`KEEL_ALARM_RATE`: share of default conversations that alarm; None for the alarm's own."""
    alarm_webhook: str | None = None
    """`KEEL_ALARM_WEBHOOK`: URL to which every new alarm is posted."""

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> ServeEnvironment | None:
        """The variables as set; None where `KEEL_FLOORS` is not, and Keel stays out.

        Raises UsageError for a value that makes no sense, for an unknown name, and where floors are
        missing for a variable that needs them.
        """
        check_names(environment)
        floors = environment.get("KEEL_FLOORS")
        if floors is not None and not floors.strip():  # KEEL_FLOORS=$RUN where RUN is not set
            raise UsageError("KEEL_FLOORS is empty; name a run, or unset it to serve uncapped")
        if floors is None:  # a mistyped name must not serve uncapped
            for name in _NEEDS_FLOORS:
                if environment.get(name, "0") not in ("", "0"):
                    raise UsageError(
                        f"{name} is {environment[name]!r}, but KEEL_FLOORS does not say what to "
                        "hold"
                    )
            return None
        if environment.get("VLLM_USE_RUST_FRONTEND", "") not in ("", "0"):
            raise UsageError("VLLM_USE_RUST_FRONTEND passes Keel's front by; unset it")
        allowed = environment.get("KEEL_ALLOW")
        return cls(
            floors,
            environment.get("KEEL_SETTING") or None,
            _switch(environment, "KEEL_ENFORCE"),
            60 * _minutes(environment.get("KEEL_CANARY_MINUTES", "0")),
            None if allowed is None else _words(allowed),
            _grants(environment),
            _switch(environment, "KEEL_ACCEPT_OTHER_WEIGHTS"),
            _admin(environment),
            environment.get("KEEL_ALARM") or None,
            _switch(environment, "KEEL_ALARM_REQUIRED"),
            environment.get("KEEL_ALARM_ACTION") or None,
            _rate(environment.get("KEEL_ALARM_RATE") or None),
            _webhook(environment.get("KEEL_ALARM_WEBHOOK") or None),
        )


def _rate(given: str | None) -> float | None:
    try:
        rate = None if given is None else float(given)
    except ValueError:
        rate = math.nan
    if rate is not None and not 0 < rate < 0.5:
        raise UsageError(
            f"KEEL_ALARM_RATE is {given!r}, expected a share between 0 and 0.5, such as 0.01"
        )
    return rate


def _webhook(url: str | None) -> str | None:
    if url is not None and not url.startswith(("http://", "https://")):
        raise UsageError(
            f"KEEL_ALARM_WEBHOOK is {url!r}, expected a URL that begins with http:// or https://"
        )
    return url


def _admin(environment: Mapping[str, str]) -> str | None:
    variable = environment.get("KEEL_ADMIN_KEY_ENV") or None
    if variable is not None and not environment.get(variable):
        raise UsageError(f"KEEL_ADMIN_KEY_ENV names {variable}, which holds no key")
    return variable


def _switch(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "0")
    if value not in ("0", "1"):
        raise UsageError(f"{name} is {value!r}, expected 0 or 1")
    return value == "1"


def _minutes(canary: str) -> float:
    try:
        minutes = float(canary)
    except ValueError:
        minutes = math.nan
    if not 0 <= minutes < math.inf:
        raise UsageError(f"KEEL_CANARY_MINUTES is {canary!r}, expected a number of 0 or more")
    return minutes


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _grants(environment: Mapping[str, str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Settings by the variable that holds a key. Raises UsageError where a variable is empty."""
    grants = []
    for part in filter(None, environment.get("KEEL_ALLOW_KEYS", "").split(";")):
        variable, _, names = part.partition(":")
        if not _words(names):
            raise UsageError(
                f"KEEL_ALLOW_KEYS has {part!r}, expected VARIABLE:SETTING[,SETTING...], where the "
                "environment variable VARIABLE holds the key"
            )
        if not environment.get(variable.strip()):
            raise UsageError(f"KEEL_ALLOW_KEYS names {variable.strip()}, which holds no key")
        grants.append((variable.strip(), _words(names)))
    return tuple(grants)
