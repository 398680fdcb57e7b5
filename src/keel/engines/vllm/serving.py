"""From `KEEL_FLOORS` to a deployment and its settings, and what is refused on the way."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from keel.engines.catalogue import weights_fingerprint
from keel.engines.vllm.deployment import KEY, OFF, Deployment, ServeEnvironment
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.token_book import RECORD, SCORE, SPANS, SUMS
from keel.errors import ModelMismatchError, UsageError
from keel.store import load_floors, load_settings
from keel.types import Floors

_OURS = (RECORD, SPANS, SUMS, SCORE)


def deployment_for(environment: ServeEnvironment) -> Deployment:
    """The deployment for a run's settings: one of them for all requests, or any per request."""
    held = settings_of(environment)
    default = default_of(environment)
    if environment.is_enforced:
        held = {default: held[default]}
    packed = [PackedInterventions.of(name, floors) for name, floors in held.items()]
    layers = sorted({layer for setting in packed for layer in setting.layers})
    # Which tokens are held, where not all are, only a map of requests can say.
    holds_all = not any(bool(setting.masks_N.any()) for setting in packed)
    return Deployment(
        layers=tuple(layers),
        is_global=environment.is_enforced and holds_all,
        settings=len(packed) + 1,  # and one for the self-test
        steps=max(setting.most_per_layer for setting in packed),
        default=default,
        is_enforced=environment.is_enforced,
    )


@lru_cache(maxsize=8)
def settings_of(environment: ServeEnvironment) -> Mapping[str, Floors]:
    """All settings of the artefact that the environment names."""
    return load_settings(environment.floors)


def default_of(environment: ServeEnvironment) -> str:
    """The setting of requests that name none. Raises UsageError for one that is not there."""
    if environment.setting is None:
        return load_floors(environment.floors).name
    if environment.setting not in settings_of(environment):
        raise UsageError(
            f"KEEL_SETTING is {environment.setting!r}, but {environment.floors} holds "
            f"{', '.join(settings_of(environment))}"
        )
    return environment.setting


def check_request(arguments: Mapping[str, Any], deployment: Deployment | None) -> None:
    """Refuse a request that asks for a setting which it cannot have. Raises UsageError."""
    name = arguments.get(KEY)
    if deployment is None:
        if name is not None:
            raise UsageError(f"{KEY} is {name!r}, but this engine was started without Keel")
        return
    if not (deployment.recordings or deployment.probes) and any(key in arguments for key in _OURS):
        raise UsageError("this engine was started without recording")
    if name is None:
        return
    if not isinstance(name, str):
        raise UsageError(f"{KEY} is {name!r}, expected the name of a setting")
    if deployment.is_enforced and name != deployment.default:
        raise UsageError("this engine holds every request alike; leave out the setting")
    environment = ServeEnvironment.of()
    if environment is not None and name != OFF and name not in settings_of(environment):
        raise UsageError(
            f"{KEY} is {name!r}, expected {OFF} or one of {', '.join(settings_of(environment))}"
        )


def refuse_unfit(config: Any, deployment: Deployment) -> None:
    """Refuse an engine that cannot be held as configured, before it starts.

    Raises ModelMismatchError for floors of another model, UsageError for what Keel cannot follow.
    """
    model = config.model_config
    environment = ServeEnvironment.of()
    if environment is not None:
        _check_model(settings_of(environment), model)
    if not deployment.is_global:
        _refuse_reordered_tokens(config)
    if deployment.recordings and config.speculative_config is not None:
        raise UsageError(
            "speculative decoding runs tokens that may be rejected, and recording would count "
            "them; leave it out, or start without recording"
        )
    connector = getattr(config.kv_transfer_config, "kv_connector", None)
    if connector == "ExampleConnector":
        raise UsageError(f"{connector} ignores the cache salt and would mix settings; leave it out")


def _refuse_reordered_tokens(config: Any) -> None:
    """Refuse features that compute tokens other than, or not in the order of, a step's batch."""
    parallel = config.parallel_config
    for name, is_on in (
        ("microbatches (enable_dbo, ubatch_size)", parallel.use_ubatching),
        ("prefill context parallelism", parallel.prefill_context_parallel_size > 1),
    ):
        if is_on:
            raise UsageError(
                f"settings per request cannot follow {name}; leave it out, or hold all requests "
                "alike with KEEL_ENFORCE=1"
            )


def _check_model(settings: Mapping[str, Floors], model: Any) -> None:
    """Refuse floors that do not fit the model, or were made on another. Raises ModelMismatchError.

    Floors that name no model must at least fit this one.
    """
    layers, hidden = int(model.get_total_num_hidden_layers()), int(model.get_hidden_size())
    folder = Path(model.model)
    weights = weights_fingerprint(folder) if folder.is_dir() else ""
    for floors in settings.values():
        width, deepest = len(next(iter(floors)).direction), max(floors.layers)
        if width != hidden or deepest >= layers:
            raise ModelMismatchError(
                f"setting {floors.name!r} holds layer {deepest} of a model of width {width}; this "
                f"one has layers 0 to {layers - 1} of width {hidden}"
            )
        made = floors.identity
        if made is None:
            continue
        if (made.layers, made.hidden_size) != (layers, hidden):
            raise ModelMismatchError(
                f"setting {floors.name!r} was made on {made.model_id}, {made.layers} layers × "
                f"{made.hidden_size}; this model has {layers} × {hidden}"
            )
        if made.weights_hash and weights and made.weights_hash != weights:
            raise ModelMismatchError(
                f"setting {floors.name!r} was made on other weights ({made.model_id}, "
                f"{made.weights_hash[:12]}) than these ({weights[:12]}); calibrate on this model"
            )
