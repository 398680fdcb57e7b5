"""Which axis, floors and layer belong to a model: its own run's, or those of a like-shaped one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from keel.engines import Engine
from keel.errors import ModelMismatchError
from keel.store import Run
from keel.types import AssistantAxis, Floors, ModelIdentity


def check_same_model(engine: Engine, axis: AssistantAxis) -> None:
    """Raise ModelMismatchError when an axis was made on another model than the engine runs."""
    problem = axis.identity.mismatch(engine.identity)
    if problem is not None:
        raise ModelMismatchError(
            f"the run's axis belongs to another model: {problem}; use the model that it was made "
            "on, or extract an axis of this one to another folder"
        )


def floors_of(run: Run, setting: str | None) -> Floors | None:
    """The named setting, the default one, or None where the run was not calibrated."""
    if setting is not None:
        return run.floors_named(setting)
    return run.floors if run.has_calibration else None


def drift_layer(axis: AssistantAxis, floors: Floors | None) -> int:
    """The layer at which drift is read: the recommended one, or the capped layer nearest to it."""
    if floors is None:
        return axis.layer
    return min(floors.layers, key=lambda layer: (abs(layer - axis.layer), layer))


@dataclass(frozen=True)
class TransferredAxis:
    """An axis used on another model than its own, such as a base model and its fine-tune."""

    axis: AssistantAxis
    facts: dict[str, str]
    """Which model answers, and on which the axis was made."""
    warning: str


def transfer_axis(axis: AssistantAxis, engine: Engine) -> TransferredAxis:
    """The axis with the identity of the engine's model, its vectors unchanged.

    Raises ModelMismatchError where the two models have other shapes: then it means nothing.
    """
    own, other = axis.identity, engine.identity
    if (own.layers, own.hidden_size) != (other.layers, other.hidden_size):
        raise ModelMismatchError(
            f"the axis of {own.model_id} ({_shape(own)}) cannot be transferred to {other.model_id} "
            f"({_shape(other)}); expected as many layers of the same size, such as the base model "
            "that it was trained from"
        )
    return TransferredAxis(
        replace(axis, identity=other),
        {"answers by": _name_and_weights(other), "axis found on": _name_and_weights(own)},
        f"the axis, its norms and its floors were found on {own.model_id}, and are used on "
        f"{other.model_id} as they are: strengths, places and floors are in the former's units",
    )


def _shape(identity: ModelIdentity) -> str:
    return f"{identity.layers} layers × {identity.hidden_size}"


def _name_and_weights(identity: ModelIdentity) -> str:
    weights = f", weights {identity.weights_hash[:12]}" if identity.weights_hash else ""
    return f"{identity.model_id}{weights}"
