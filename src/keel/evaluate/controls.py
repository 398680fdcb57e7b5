"""Controls: directions that are not the axis, and floors on them that are matched with a cap's.

One draw serves all layers. The axis hardly turns from a layer to the next, so a band pushes the
same way again and again; a control drawn anew at each layer would push every way at once and be
weaker than the cap for that reason alone. Hence one Gaussian vector, one permutation, or one
mixture of roles: the same coefficients at every layer are the same mixture of characters as each
layer sees it.

A floor can match how often the cap's fires, or how far it lifts, not both: projections spread
differently on every direction. Matched in firing, the same share of the calibration answers' tokens
lies under the control's floor as under the cap's, layer by layer, read unsteered. Matched in lift,
it moves a token as far as the cap does on average: in raw units, since what the next layers read is
the stream itself, and layer by layer under its own earlier floors, as it acts. (In standard
deviations along the direction a control matched in firing is matched already, near enough.)
Knows nothing of arms' names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from keel.engines import Engine, Probe, Recording
from keel.errors import NotAppliedError, TooFewSamplesError
from keel.geometry import lift, unit
from keel.seeds import seed_of
from keel.types import AssistantAxis, Conversation, Floor, Floors, PersonaVector, Rollout

_FEWEST_ROLES = 3
"""Two roles span one dimension when centred, and nothing in it is free to leave the axis."""
_FEW_ANSWERS = 48
"""Answers at most that are read anew for each layer of each control."""
_RELATIVE_ZERO = 1e-6
"""Shares of a length that float32 role vectors cannot tell from nothing."""


def random_directions(
    axis: AssistantAxis, layers: Sequence[int], generator: torch.Generator
) -> Float[Tensor, "layer hidden"]:
    """A Gaussian unit vector, the same at each of the layers."""
    hidden = axis.vector.shape[1]
    return unit(torch.randn(hidden, generator=generator)).repeat(len(layers), 1)


def shuffled_directions(
    axis: AssistantAxis, layers: Sequence[int], generator: torch.Generator
) -> Float[Tensor, "layer hidden"]:
    """The axis' coordinates in another order, the same at each of the layers.

    They are as large as the axis' own, one or two of which outweigh all others in some models.
    """
    order_D = torch.randperm(axis.vector.shape[1], generator=generator)
    return axis.direction[list(layers)][:, order_D]


def in_span_directions(
    axis: AssistantAxis,
    layers: Sequence[int],
    generator: torch.Generator,
    *,
    vectors: Sequence[PersonaVector],
) -> Float[Tensor, "layer hidden"]:
    """A random mixture of centred role vectors, orthogonal to the axis at each layer.

    Raises TooFewSamplesError where the roles leave no such direction.
    """
    if len(vectors) < _FEWEST_ROLES:
        raise TooFewSamplesError(
            f"{len(vectors)} role vectors, expected {_FEWEST_ROLES} or more; extract more roles"
        )
    weights_R = torch.randn(len(vectors), generator=generator, dtype=torch.float64)
    rows = []
    for layer in layers:
        vectors_RD = torch.stack([vector.vector_LD[layer] for vector in vectors]).double()
        rows.append(_mixture(vectors_RD, weights_R, axis.direction[layer].double()))
    return unit(torch.stack(rows))


def draw_source(seed: int, kind: str, draw: int) -> torch.Generator:
    """The random generator for one draw of one kind of control, seeded by these alone."""
    return torch.Generator().manual_seed(seed_of(seed, kind, draw, separator="/", bits=63))


def _mixture(vectors_RD: Tensor, weights_R: Tensor, axis_D: Tensor) -> Tensor:
    """The mixture, less as much of the axis' shadow in the roles' span as makes it orthogonal.

    Taking the axis itself away would lead out of the span: the default is not among the roles.
    """
    centred_RD = vectors_RD - vectors_RD.mean(0)
    mixture_D = weights_R @ centred_RD
    shadow_D = _shadow(axis_D, centred_RD)
    overlap = float(shadow_D @ axis_D)
    free_D = mixture_D
    if overlap > _RELATIVE_ZERO**2:
        free_D = mixture_D - (mixture_D @ axis_D) / overlap * shadow_D
    if float(free_D.norm()) <= _RELATIVE_ZERO * float(mixture_D.norm()):
        raise TooFewSamplesError(
            "the role vectors differ along the axis alone, so that no mixture of them is "
            "orthogonal to it; extract more roles"
        )
    return free_D


def _shadow(axis_D: Tensor, centred_RD: Tensor) -> Tensor:
    """The axis as far as it lies in the span of the rows."""
    _, sizes_K, rows_KD = torch.linalg.svd(centred_RD, full_matrices=False)
    spanning_KD: Tensor = rows_KD[sizes_K > _RELATIVE_ZERO * sizes_K[0]]
    return spanning_KD.T @ (spanning_KD @ axis_D)


@dataclass(frozen=True)
class Control:
    """A cap, and the directions on which it is to be imitated."""

    cap: Floors
    directions_FD: Float[Tensor, "floor hidden"]
    """Unit length, one for each floor of the cap."""
    matches_lift: bool = False
    """Whether its floors lift tokens as far as the cap's; else they fire as often."""


@dataclass(frozen=True)
class Push:
    """How often floors move a slot, and how far."""

    firing: float
    """Share (0 to 1) of the (token, layer) slots that are moved."""
    lift: float
    """Raw length by which a slot is moved, averaged over all slots."""


@dataclass(frozen=True)
class MatchedFloors:
    """Floors on the control's directions, and how well they imitate the cap."""

    floors: tuple[Floor, ...]
    nominal: Push
    """Of the calibration answers, read unsteered."""
    cap_nominal: Push
    realised: Push
    """Of some of them, with the floors at all layers at work."""
    cap_realised: Push
    silent_layers: tuple[int, ...]
    """Layers at which neither would fire on any of the answers."""


def match_floors(
    engine: Engine,
    controls: Sequence[Control],
    answers: Sequence[Rollout],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[MatchedFloors]:
    """Floors for each control: one unsteered reading of all answers, then one per layer of a few.

    Raises TooFewSamplesError where no answer has a token.
    """
    conversations = [answer.conversation for answer in answers if answer.token_ids]
    if not conversations:
        raise TooFewSamplesError(
            "the run has no answer on which a control could be matched with the cap; "
            "extract with more questions"
        )
    some = conversations[:: -(-len(conversations) // _FEW_ANSWERS)]
    bands = {id(control.cap): control.cap for control in controls}
    passes = sum(len(band.layers) for band in [*bands.values(), *(c.cap for c in controls)])
    reader = _Reader(engine, len(conversations) + passes * len(some), on_progress)
    probes = [_probes(control) for control in controls]
    rows = reader.read(conversations, list(chain(*probes)))
    columns = torch.split(rows, [len(of_control) for of_control in probes], dim=1)
    caps = {name: _at_work(reader, some, tuple(band)) for name, band in bands.items()}
    matches = []
    for control, column_NF in zip(controls, columns, strict=True):
        cap_NF, other_NF = column_NF.chunk(2, 1)
        cap = caps[id(control.cap)]
        lifts = [push.lift for push in cap.pushes] if control.matches_lift else []
        own = _at_work(reader, some, _as_often(control, cap_NF, other_NF), lifts)
        matches.append(
            MatchedFloors(
                floors=own.floors,
                nominal=_push(own.floors, other_NF),
                cap_nominal=_push(tuple(control.cap), cap_NF),
                realised=_mean_push(own.pushes),
                cap_realised=_mean_push(cap.pushes),
                silent_layers=tuple(
                    floor.layer
                    for floor, column_N in zip(control.cap, cap_NF.T, strict=True)
                    if not bool((column_N < floor.value).any())
                ),
            )
        )
    return matches


class _Reader:
    """Reads conversations' projections with an engine, and says how many it has read of all."""

    def __init__(self, engine: Engine, total: int, on_progress: Callable[[int, int], None]) -> None:
        self.engine, self.total, self.on_progress = engine, total, on_progress
        self.done = 0

    def read(
        self,
        conversations: Sequence[Conversation],
        probes: Sequence[Probe],
        interventions: Sequence[Floor] = (),
    ) -> Float[Tensor, "token probe"]:
        """Projections of all the answers' content tokens."""
        recording, parts = Recording(probes=tuple(probes)), []
        for reading in self.engine.read(
            conversations, recording=recording, interventions=interventions
        ):
            projections_TK = reading.turns[-1].projections_TK
            if projections_TK is None:
                raise NotAppliedError("the engine did not record the projections of its probes")
            parts.append(projections_TK.float())
            self.done += 1
            self.on_progress(self.done, self.total)
        return torch.cat(parts)


@dataclass(frozen=True)
class _FloorsAtWork:
    floors: tuple[Floor, ...]
    pushes: tuple[Push, ...]
    """One per floor, with those of all layers before it at work."""


def _at_work(
    reader: _Reader,
    conversations: Sequence[Conversation],
    floors: Sequence[Floor],
    lifts: Sequence[float] = (),
) -> _FloorsAtWork:
    """How far each floor pushes under those before it; with `lifts`, at heights that lift so far.

    A floor is met by what the layers before it made of the stream, so that each layer has a reading
    of its own.
    """
    floors, pushes = list(floors), {}
    for layer in sorted({floor.layer for floor in floors}):
        here = [n for n, floor in enumerate(floors) if floor.layer == layer]
        before = [floor for floor in floors if floor.layer < layer]
        probes = [Probe(layer, floors[n].direction) for n in here]
        columns = reader.read(conversations, probes, before).T
        for n, column_N in zip(here, columns, strict=True):
            if lifts:
                floors[n] = replace(floors[n], value=_lifting_height(column_N, lifts[n]))
            pushes[n] = _push([floors[n]], column_N[:, None])
    return _FloorsAtWork(tuple(floors), tuple(pushes[n] for n in range(len(floors))))


def _probes(control: Control) -> list[Probe]:
    """The cap's own directions, then the control's."""
    floors = list(control.cap)
    directions = [*(floor.direction for floor in floors), *control.directions_FD]
    pairs = zip(2 * floors, directions, strict=True)
    return [Probe(floor.layer, direction) for floor, direction in pairs]


def _as_often(control: Control, cap_NF: Tensor, other_NF: Tensor) -> tuple[Floor, ...]:
    """Floors under which as many of the unsteered projections lie as under the cap's."""
    columns = zip(control.cap, control.directions_FD, cap_NF.T, other_NF.T, strict=True)
    return tuple(
        replace(floor, direction=v, value=_height(other_N, int((cap_N < floor.value).sum())))
        for floor, v, cap_N, other_N in columns
    )


def _push(floors: Sequence[Floor], projections_NF: Tensor) -> Push:
    heights_F = torch.tensor([floor.value for floor in floors])
    return Push(
        float((projections_NF < heights_F).float().mean()),
        float(lift(projections_NF, heights_F).mean()),
    )


def _mean_push(pushes: Sequence[Push]) -> Push:
    count = len(pushes)
    return Push(sum(p.firing for p in pushes) / count, sum(p.lift for p in pushes) / count)


def _height(projections_N: Tensor, count: int) -> float:
    """A value that so many of the projections lie under, as nearly as ties allow."""
    ordered_N = projections_N.sort().values
    if count == 0:
        return float(ordered_N[0])
    if count == len(ordered_N):
        return float(torch.nextafter(ordered_N[-1], torch.tensor(torch.inf)))
    return float((ordered_N[count - 1] + ordered_N[count]) / 2)


def _lifting_height(projections_N: Tensor, lift: float) -> float:
    """The value up to which the projections are lifted by so much on average."""
    ordered_N = projections_N.double().sort().values
    counts_N = torch.arange(1, len(ordered_N) + 1)
    # Lifting the lowest k alone up to h takes k·h − their sum.
    heights_N = (lift * len(ordered_N) + ordered_N.cumsum(0)) / counts_N
    fits_N = heights_N[:-1] <= ordered_N[1:]
    first = int(fits_N.int().argmax()) if bool(fits_N.any()) else len(ordered_N) - 1
    return float(heights_N[first])
