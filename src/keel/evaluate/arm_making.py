"""Makes arms from a run's axis, floors and role vectors.

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
from keel.evaluate.arms import Arm, ArmSpec, Instruction
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
from keel.types import UNSTEERED, AssistantAxis, ControlMatch, Floors, PersonaVector, Rollout
from keel.words import form_of, number, signed, tenths

_SPOKEN = (UNSTEERED, "prompt", "reprompt")
"""Arms that do nothing to the model but talk to it."""
_DIRECTIONS = {
    "random": "a random direction",
    "shuffled": "the axis with its coordinates shuffled",
    "in-span": "a random mixture of roles, orthogonal to the axis",
}


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

    def floors_of(self, setting: str) -> Floors:
        """The floors of a setting, the chosen one if it is empty."""
        if self.floors is None:
            raise MissingArtifactError(
                f"the run has no floors; make them: keel calibrate {self.run}"
            )
        if setting in ("", self.floors.name):
            return self.floors
        if self.floors_named is None:
            raise UsageError(f"no setting {setting!r}; there is {self.floors.name}")
        return self.floors_named(setting)

    def directions(
        self, spec: ArmSpec, layers: Sequence[int], seed: int
    ) -> Float[Tensor, "layer hidden"]:
        """A control's directions at some layers."""
        chance = draw_source(seed, spec.kind, spec.draw)
        if spec.kind == "random":
            return random_directions(self.axis, layers, chance)
        if spec.kind == "shuffled":
            return shuffled_directions(self.axis, layers, chance)
        return in_span_directions(self.axis, layers, chance, vectors=self.role_vectors())

    @property
    def extraction(self) -> str:
        """The command that makes a run whose axis knows all that arms need."""
        return f"keel extract {self.axis.identity.model_id} -o ANOTHER_RUN"


def make_arms(
    specs: Sequence[ArmSpec],
    sources: ArmSources,
    engine: Engine,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Arm, ...]:
    """The arms of these specs, in that order; the same seed draws the same controls.

    The engine runs only for controls of a cap: it reads the calibration answers once for all of
    them, and a few again for each layer; `on_progress` is called with how many are read. A
    KeelError names the arm that lacks something, and how to make it.
    """
    made = [_made(spec, sources, seed) for spec in specs]
    controls = [each for each in made if isinstance(each, Control)]
    answers = sources.answers() if controls else ()
    matches = iter(match_floors(engine, controls, answers, on_progress) if controls else ())
    return tuple(
        each if isinstance(each, Arm) else _matched(spec, each, next(matches), sources.axis)
        for spec, each in zip(specs, made, strict=True)
    )


def spoken_arms(specs: Sequence[ArmSpec]) -> tuple[Arm, ...]:
    """Arms that change prompts only, for a model whose activations are out of reach.

    Raises UsageError for one that does something to the model.
    """
    inside = [spec.name for spec in specs if spec.kind not in _SPOKEN]
    if inside:
        raise UsageError(
            f"arms {', '.join(inside)} reach into a model, and this one can only be talked to; "
            f"take {', '.join(_SPOKEN)}, or a run on one of Keel's engines"
        )
    return tuple(map(_spoken, specs))


def _made(spec: ArmSpec, sources: ArmSources, seed: int) -> Arm | Control:
    """The arm; of a control of a cap, what its floors are to be matched with."""
    try:
        if spec.is_step:
            return _stepped(spec, sources, seed)
        if spec.kind in _SPOKEN:
            return _spoken(spec)
        if spec.kind == "replaced":
            return _replaced(spec, sources)
        floors = sources.floors_of(spec.setting)
        if not spec.is_control:
            note = f"floors {floors.name} on the axis at {_listed(floors.layers)}"
            return Arm(spec.name, tuple(floors), note=note)
        layers = [floor.layer for floor in floors]
        return Control(floors, sources.directions(spec, layers, seed), spec.matches_lift)
    except KeelError as error:
        raise type(error)(f"arm {spec.name!r}: {error}") from error


def _matched(spec: ArmSpec, control: Control, match: MatchedFloors, axis: AssistantAxis) -> Arm:
    """A control's arm; warns about layers where no floor fires: none controls there."""
    cap = control.cap
    cosine_F = cosine(control.directions_FD, axis.direction[[floor.layer for floor in cap]])
    nominal, realised, caps = match.nominal, match.realised, match.cap_realised
    note = (
        f"floors on {_DIRECTIONS[spec.kind]} at {_listed(cap.layers)}, matched in "
        f"{'lift' if spec.matches_lift else 'firing'}: under them {tenths(nominal.firing)} of "
        f"calibration slots lie (under {cap.name}: {tenths(match.cap_nominal.firing)}); all at "
        f"work they move {tenths(realised.firing)} (cap {tenths(caps.firing)}) with a mean lift of "
        f"{realised.lift:.3g} raw (cap {caps.lift:.3g}); cosine with the axis {_range(cosine_F)}"
    )
    warnings: tuple[str, ...] = ()
    if match.silent_layers:
        warnings = (
            f"arm {spec.name!r}: on the calibration answers neither {cap.name} nor its control "
            f"ever fires at {_listed(match.silent_layers)}, so it shows nothing there",
        )
    beside = ControlMatch(realised.firing, caps.firing, realised.lift, caps.lift)
    return Arm(spec.name, match.floors, note=note, match=beside, warnings=warnings)


def _spoken(spec: ArmSpec) -> Arm:
    if spec.kind == UNSTEERED:
        return Arm(spec.name, note="nothing is done")
    instruction = Instruction(is_repeated=spec.kind == "reprompt")
    repeated = " and before each user turn" if instruction.is_repeated else ""
    return Arm(spec.name, (), instruction, f"{instruction.text!r} as system prompt{repeated}")


def _replaced(spec: ArmSpec, sources: ArmSources) -> Arm:
    axis = sources.axis
    layers = (axis.layer,) if sources.floors is None else sources.floors.layers
    heights = axis.default_projection[list(layers)]
    if not bool(torch.isfinite(heights).all()):
        raise MissingArtifactError(
            "this axis does not know where the default stands on it; extract one: "
            f"{sources.extraction}"
        )
    pairs = zip(layers, heights.tolist(), strict=True)
    ablations = tuple(Ablation(layer, axis.direction[layer], to) for layer, to in pairs)
    note = f"projection set to the default's mean at {_listed(layers)}"
    return Arm(spec.name, ablations, note=note)


def _stepped(spec: ArmSpec, sources: ArmSources, seed: int) -> Arm:
    """A step along the axis, or as long a step along a control's direction."""
    axis = sources.axis
    layer = axis.layer if spec.layer is None else spec.layer
    if layer >= len(axis.vector):
        raise UsageError(f"there is no layer {layer}; the model's are 0 to {len(axis.vector) - 1}")
    if not bool(torch.isfinite(axis.residual_norm[layer])):
        raise MissingArtifactError(
            f"this axis does not know the residual norm at layer {layer}, in which strengths are "
            f"given; extract one: {sources.extraction}"
        )
    assert spec.strength is not None
    step = Addition.along(axis, spec.strength, layer=layer)
    size = f"step of {spec.strength:+g} residual norms ({signed(step.amount, number)} raw)"
    if not spec.is_control:
        return Arm(spec.name, (step,), note=f"{size} along the axis at layer {layer}")
    direction = sources.directions(spec, [layer], seed)[0]
    likeness = _range(cosine(direction[None], axis.direction[layer][None]))
    kind = _DIRECTIONS[spec.kind]
    note = f"{size} along {kind} at layer {layer}; cosine with the axis {likeness}"
    return Arm(spec.name, (replace(step, direction=direction),), note=note)


def _listed(layers: Sequence[int]) -> str:
    """`layer 20`, `layers 21 to 25` or `layers 3, 8`."""
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layers {', '.join(map(str, layers))}"


def _range(cosines: Float[Tensor, " layer"]) -> str:
    low, high = (signed(float(end), form_of("cosine")) for end in cosines.aminmax())
    return low if low == high else f"{low} to {high}"
