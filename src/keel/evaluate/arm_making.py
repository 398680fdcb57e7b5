"""Makes arms from what a run found.

Knows no run folder: what arms are made of arrives as values, the costly ones on demand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from keel.engines import Engine
from keel.errors import KeelError, MissingArtifactError, UsageError
from keel.evaluate.arm_names import ArmSpec
from keel.evaluate.arms import Arm, Instruction
from keel.evaluate.controls import (
    Control,
    MatchedFloors,
    draw_source,
    in_span_directions,
    match_floors,
    random_directions,
    shuffled_directions,
)
from keel.geometry import cosine
from keel.steering import Ablation, Addition
from keel.types import AssistantAxis, Floors, PersonaVector, Rollout


@dataclass(frozen=True)
class ArmSources:
    """What arms are made of."""

    axis: AssistantAxis
    floors: Floors | None = None
    """The run's chosen floors; None where it was not calibrated."""
    floors_named: Callable[[str], Floors] | None = None
    """Other settings of the run's, by name."""
    role_vectors: Callable[[], Sequence[PersonaVector]] = lambda: ()
    answers: Callable[[], Sequence[Rollout]] = lambda: ()
    """Answers on which floors were calibrated, default and roles together: on them a control's
    floors are matched with the cap's."""
    run: str = "RUN"
    """The run's folder, for commands in messages."""


def make_arms(
    specs: Sequence[ArmSpec],
    sources: ArmSources,
    engine: Engine,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Arm, ...]:
    """The arms asked for, in that order; the same seed draws the same controls.

    Only where a control of a cap is asked for does the engine run: it reads the calibration
    answers once for all of them, and `on_progress` is told how many. A KeelError names the arm
    that lacks something, and how to make it.
    """
    plans = [_planned(spec, sources, seed) for spec in specs]
    waiting = [plan for plan in plans if isinstance(plan, _Waiting)]
    controls = [plan.control for plan in waiting]
    found = match_floors(engine, controls, sources.answers(), on_progress) if controls else []
    matches = iter(found)
    return tuple(p if isinstance(p, Arm) else _bounded(p, next(matches)) for p in plans)


def spoken_arms(specs: Sequence[ArmSpec]) -> tuple[Arm, ...]:
    """Arms of a model that can only be talked to, such as one behind an address.

    Raises UsageError for one that does something to the model.
    """
    inside = [spec.name for spec in specs if spec.kind not in _SPOKEN]
    if inside:
        raise UsageError(
            f"arms {', '.join(inside)} reach into a model, and this one can only be talked to; "
            f"take {', '.join(_SPOKEN)}, or a run on one of Keel's engines"
        )
    return tuple(_SPOKEN[spec.kind](spec) for spec in specs)


@dataclass(frozen=True)
class _Waiting:
    """A control of a cap whose floors are not found yet."""

    spec: ArmSpec
    control: Control
    cosine_F: Float[Tensor, " floor"]
    """Of its directions with the axis."""


def _planned(spec: ArmSpec, sources: ArmSources, seed: int) -> Arm | _Waiting:
    try:
        if spec.is_step:
            return _stepped(spec, sources, seed)
        if spec.is_control:
            return _waiting(spec, sources, seed)
        if spec.kind in _SPOKEN:
            return _SPOKEN[spec.kind](spec)
        return _capped(spec, sources) if spec.kind == "capped" else _replaced(spec, sources)
    except KeelError as error:
        raise type(error)(f"arm {spec.name!r}: {error}") from error


def _unsteered(spec: ArmSpec) -> Arm:
    return Arm(spec.name, note="nothing is done")


def _capped(spec: ArmSpec, sources: ArmSources) -> Arm:
    floors = _floors(spec, sources)
    note = f"floors {floors.name} on the axis at {_places(floors.layers)}"
    return Arm(spec.name, tuple(floors), note=note)


def _replaced(spec: ArmSpec, sources: ArmSources) -> Arm:
    axis = sources.axis
    layers = (axis.layer,) if sources.floors is None else sources.floors.layers
    heights = axis.default_projection[list(layers)]
    if not bool(torch.isfinite(heights).all()):
        raise MissingArtifactError(
            "this axis does not know where the default stands on it; extract one: "
            f"{_extract(sources)}"
        )
    pairs = zip(layers, heights.tolist(), strict=True)
    ablations = tuple(Ablation(layer, axis.direction[layer], to) for layer, to in pairs)
    note = f"projection set to the default's mean at {_places(layers)}"
    return Arm(spec.name, ablations, note=note)


def _prompted(spec: ArmSpec) -> Arm:
    is_repeated = spec.kind == "reprompt"
    where = "as system prompt and before each user turn" if is_repeated else "as system prompt"
    instruction = Instruction(is_repeated=is_repeated)
    return Arm(spec.name, (), instruction, f"{instruction.text!r} {where}")


_SPOKEN: dict[str, Callable[[ArmSpec], Arm]] = {
    "none": _unsteered,
    "prompt": _prompted,
    "reprompt": _prompted,
}


def _stepped(spec: ArmSpec, sources: ArmSources, seed: int) -> Arm:
    """A step along the axis, or as long a step along a control's direction."""
    axis = sources.axis
    layer = axis.layer if spec.layer is None else spec.layer
    _check_norm(layer, sources)
    assert spec.strength is not None
    step = Addition.along(axis, spec.strength, layer=layer)
    size = f"step of {spec.strength:+g} residual norms ({step.amount:+.3g} raw)"
    if not spec.is_control:
        return Arm(spec.name, (step,), note=f"{size} along the axis at layer {layer}")
    direction = _directions(spec, sources, [layer], seed)[0]
    likeness = _range(cosine(direction[None], axis.direction[layer][None]))
    note = f"{size} along {_KINDS[spec.kind]} at layer {layer}; cosine with the axis {likeness}"
    return Arm(spec.name, (replace(step, direction=direction),), note=note)


def _check_norm(layer: int, sources: ArmSources) -> None:
    layers = len(sources.axis.vector)
    if layer >= layers:
        raise UsageError(f"layer {layer} is asked for, the model's are 0 to {layers - 1}")
    if not bool(torch.isfinite(sources.axis.residual_norm[layer])):
        raise MissingArtifactError(
            f"this axis does not know the residual norm at layer {layer}, in which strengths are "
            f"told; extract one: {_extract(sources)}"
        )


def _waiting(spec: ArmSpec, sources: ArmSources, seed: int) -> _Waiting:
    floors = _floors(spec, sources)
    layers = [floor.layer for floor in floors]
    directions_FD = _directions(spec, sources, layers, seed)
    likeness_F = cosine(directions_FD, sources.axis.direction[layers])
    return _Waiting(spec, Control(floors, directions_FD), likeness_F)


def _bounded(plan: _Waiting, match: MatchedFloors) -> Arm:
    cap = plan.control.cap
    note = (
        f"floors on {_KINDS[plan.spec.kind]} at {_places(cap.layers)}, under which "
        f"{match.nominal_firing:.1%} of calibration slots lie (under {cap.name}: "
        f"{match.cap_firing:.1%}); mean lift {match.mean_lift:.3g} raw (cap {match.cap_lift:.3g}); "
        f"cosine with the axis {_range(plan.cosine_F)}"
    )
    return Arm(plan.spec.name, match.floors, note=note, warnings=_silence(plan, match))


def _silence(plan: _Waiting, match: MatchedFloors) -> tuple[str, ...]:
    """Where the control is no control, since it does nothing."""
    if not match.silent_layers:
        return ()
    where, cap = _places(match.silent_layers), plan.control.cap.name
    return (
        f"arm {plan.spec.name!r}: on the calibration answers neither {cap} nor its control ever "
        f"fires at {where}, so it shows nothing there",
    )


_KINDS = {
    "random": "a random direction",
    "shuffled": "the axis with its coordinates shuffled",
    "in-span": "a random mixture of roles, orthogonal to the axis",
}


def _directions(
    spec: ArmSpec, sources: ArmSources, layers: Sequence[int], seed: int
) -> Float[Tensor, "layer hidden"]:
    chance = draw_source(seed, spec.kind, spec.draw)
    if spec.kind == "random":
        return random_directions(sources.axis, layers, chance)
    if spec.kind == "shuffled":
        return shuffled_directions(sources.axis, layers, chance)
    return in_span_directions(sources.axis, layers, chance, vectors=sources.role_vectors())


def _floors(spec: ArmSpec, sources: ArmSources) -> Floors:
    if sources.floors is None:
        raise MissingArtifactError(
            f"the run has no floors; make them: keel calibrate {sources.run}"
        )
    if spec.setting in ("", sources.floors.name):
        return sources.floors
    if sources.floors_named is None:
        raise UsageError(f"no setting {spec.setting!r}; there is {sources.floors.name}")
    return sources.floors_named(spec.setting)


def _extract(sources: ArmSources) -> str:
    return f"keel extract {sources.axis.identity.model_id} -o ANOTHER_RUN"


def _places(layers: Sequence[int]) -> str:
    """`layer 20`, `layers 21 to 25` or `layers 3, 8`."""
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layers {', '.join(map(str, layers))}"


def _range(cosines: Float[Tensor, " layer"]) -> str:
    low, high = f"{float(cosines.min()):+.3f}", f"{float(cosines.max()):+.3f}"
    return low if low == high else f"{low} to {high}"
