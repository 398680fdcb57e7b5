"""Controls: directions that are not the axis, and floors on them that fire as often as the cap's.

One draw serves all layers. The axis hardly turns from a layer to the next, so a band pushes the
same way again and again; a control drawn anew at each layer would push every way at once and be
weaker than the cap for that reason alone. Hence one Gaussian vector, one permutation, or one
mixture of roles: the same coefficients at every layer are the same mixture of characters as each
layer sees it.

As often means nominally, layer by layer: the same share of the calibration answers' tokens lies
under the control's floor as under the cap's, read unsteered. How far a floor lifts what is under
it then differs, since projections spread differently on every direction: both are reported.
Knows nothing of arms' names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from keel.engines import Engine, Probe, Recording
from keel.errors import NotAppliedError, TooFewSamplesError
from keel.geometry import unit
from keel.seeds import seed_of
from keel.types import AssistantAxis, Floor, Floors, PersonaVector, Rollout

_FEWEST_ROLES = 3
"""Two roles span one dimension when centred, and nothing in it is free to leave the axis."""
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
    """Chance for one draw of one kind of control: it depends on nothing else."""
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


@dataclass(frozen=True)
class MatchedFloors:
    """Floors on the control's directions, and how well they imitate the cap."""

    floors: tuple[Floor, ...]
    nominal_firing: float
    """Share (0 to 1) of the calibration answers' (token, layer) slots under these floors."""
    cap_firing: float
    """The same for the cap."""
    mean_lift: float
    """Raw length by which these floors move a slot, averaged over all slots."""
    cap_lift: float
    """The same for the cap."""
    silent_layers: tuple[int, ...]
    """Layers at which neither fires on any of the answers."""


def match_floors(
    engine: Engine,
    controls: Sequence[Control],
    answers: Sequence[Rollout],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[MatchedFloors]:
    """Floors for each control, from one unsteered reading of the calibration answers.

    Raises TooFewSamplesError where no answer has a token.
    """
    probes: list[Probe] = []
    for control in controls:  # the cap's own directions, then the control's
        floors = list(control.cap)
        directions = [*(floor.direction for floor in floors), *control.directions_FD]
        pairs = zip(2 * floors, directions, strict=True)
        probes += [Probe(floor.layer, direction) for floor, direction in pairs]
    conversations = [answer.conversation for answer in answers if answer.token_ids]
    if not conversations:
        raise TooFewSamplesError(
            "the run has no answer on which a control could be matched with the cap; "
            "extract with more questions"
        )
    projections: list[Tensor] = []
    recording = Recording(probes=tuple(probes))
    for done, reading in enumerate(engine.read(conversations, recording=recording), 1):
        projections_TK = reading.turns[-1].projections_TK
        if projections_TK is None:
            raise NotAppliedError("the engine did not record the projections of its probes")
        projections.append(projections_TK.float())
        on_progress(done, len(conversations))
    widths = [2 * len(control.cap) for control in controls]
    columns = torch.split(torch.cat(projections), widths, dim=1)
    parts = zip(controls, columns, strict=True)
    return [_matched(control, *column_NF.chunk(2, 1)) for control, column_NF in parts]


def _matched(control: Control, cap_NF: Tensor, other_NF: Tensor) -> MatchedFloors:
    caps = list(control.cap)
    heights_F = torch.tensor([floor.value for floor in caps])
    counts_F = (cap_NF < heights_F).sum(0)
    values_F = torch.tensor(
        [_height(column_N, int(n)) for column_N, n in zip(other_NF.T, counts_F, strict=True)]
    )
    parts = zip(caps, control.directions_FD, values_F.tolist(), strict=True)
    return MatchedFloors(
        floors=tuple(replace(f, direction=v, value=value) for f, v, value in parts),
        nominal_firing=float((other_NF < values_F).float().mean()),
        cap_firing=float((cap_NF < heights_F).float().mean()),
        mean_lift=float((values_F - other_NF).clamp_min(0).mean()),
        cap_lift=float((heights_F - cap_NF).clamp_min(0).mean()),
        silent_layers=tuple(f.layer for f, n in zip(caps, counts_F, strict=True) if not n),
    )


def _height(projections_N: Tensor, count: int) -> float:
    """A value that so many of the projections lie under, as nearly as ties allow."""
    ordered_N = projections_N.sort().values
    if count == 0:
        return float(ordered_N[0])
    if count == len(ordered_N):
        return float(torch.nextafter(ordered_N[-1], torch.tensor(torch.inf)))
    return float((ordered_N[count - 1] + ordered_N[count]) / 2)
