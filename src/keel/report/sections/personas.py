"""Sections on what an extraction found: persona space, ranks, quality of the axis."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from keel.report import figures
from keel.report.content import Picture, Section, Table, missing
from keel.report.findings import (
    KindStanding,
    RoleStanding,
    quality_at,
    rank_kinds,
    rank_roles,
)
from keel.report.inputs import ReportInputs
from keel.types import LayerQuality, PersonaMap
from keel.words import counted, fixed, listed, number, percent

MOST_RANKED = 60
"""Roles that the ranking draws; of more it shows both ends."""
_FEWEST_KINDS = 3
_TITLES = {
    "space": "Persona space",
    "ranks": "Roles along the Assistant Axis",
    "quality": "How good the axis is, layer by layer",
}


def persona_sections(inputs: ReportInputs) -> tuple[Section, ...]:
    """Persona space, the roles' ranking, and the quality curves."""
    found = inputs.persona_map
    if found is None:
        what, command = "Not extracted yet", f"keel extract {inputs.identity.model_id} -o RUN"
        return tuple(missing(id, _TITLES[id], what=what, command=command) for id in _TITLES)
    return (_space(inputs, found), _ranks(inputs, found), _quality(inputs, found))


def _space(inputs: ReportInputs, found: PersonaMap) -> Section:
    layer, kinds = found.axis.layer, {role: inputs.kind_of(role) for role in found.space.roles}
    draw = partial(figures.draw_space, found.space, layer, kinds=kinds, samples=inputs.samples)
    scatter = Picture(
        "persona-space",
        draw,
        "Roles and the default on the first two components, in raw units. Hover over a point for "
        "its role and a sample answer; names without room are told there too. The slider goes "
        "through the layers.",
        f"Scatter of {len(found.space.roles)} roles and the default on PC1 and PC2, layer {layer}.",
    )
    spectrum = Picture(
        "variance",
        partial(figures.draw_variance, found.space, layer),
        f"Share of the variance between roles in each component at layer {layer}, with how many "
        "components reach 70, 80 and 90 %.",
        f"Bar chart of the variance of the components at layer {layer}.",
    )
    words = (_say_space(found), _say_spectrum(found))
    return Section("space", _TITLES["space"], words, (scatter, spectrum))


def _say_space(found: PersonaMap) -> str:
    layer, space = found.axis.layer, found.space
    default = float(space.default_coordinates_LK[layer, 0])
    beyond = int((space.coordinates_LRK[layer, :, 0] > default).sum())
    place = (
        "no role lies further out than it: the default sits at the Assistant's end"
        if beyond == 0
        else f"{counted(beyond, 'role')} of {len(space.roles)} lie further out than it"
    )
    return (
        f"Every role has a place: the mean of what the model computes after layer {layer} while it "
        "answers in that role. So has the default, the model when no role is set, drawn as a star. "
        "The two directions drawn are those along which the roles differ most; the first, PC1, is "
        f"turned so that the Assistant's side is on the right. Along it, {place}."
    )


def _say_spectrum(found: PersonaMap) -> str:
    layer, space = found.axis.layer, found.space
    needed = [(share, space.components_for(share, layer)) for share in (0.7, 0.8, 0.9)]
    more = f"more than the {space.variance_ratio_LK.shape[1]} kept"
    told = listed([f"{count or more} for {percent(share)}" for share, count in needed])
    return (
        f"PC1 carries {percent(float(space.variance_ratio_LK[layer, 0]))} of the variance between "
        f"{len(space.roles)} roles. Components needed: {told} of the variance. The fewer, the "
        "more the roles differ in the same few ways."
    )


def _ranks(inputs: ReportInputs, found: PersonaMap) -> Section:
    standings = rank_roles(found)
    shown = standings
    if len(standings) > MOST_RANKED:
        shown = (*standings[: MOST_RANKED // 2], *standings[-MOST_RANKED // 2 :])
    kinds = {standing.role: inputs.kind_of(standing.role) for standing in standings}
    omitted = len(standings) - len(shown)
    left_out = f" The {omitted} roles in the middle are left out here." if omitted else ""
    picture = Picture(
        "ranks",
        partial(figures.draw_ranks, shown, kinds=kinds, samples=inputs.samples),
        f"Projection of each role at layer {found.axis.layer} in gap units: 0 is the mean of the "
        f"roles, 1 the mean of the default.{left_out}",
        f"Dot chart of {len(shown)} roles by their projection on the Assistant Axis.",
    )
    ranked = rank_kinds(standings, kinds)
    if len(ranked) < _FEWEST_KINDS:
        return Section("ranks", _TITLES["ranks"], (_say_ranks(standings, found),), (picture,))
    words = (_say_ranks(standings, found), _say_kinds(ranked))
    return Section("ranks", _TITLES["ranks"], words, (picture,), (_kind_table(ranked),))


def _say_kinds(ranked: Sequence[KindStanding]) -> str:
    nearest, farthest = ranked[0], ranked[-1]
    return (
        "A role alone stands where it does partly by chance; a kind of roles says more. On average "
        f"the {nearest.kind} roles stand nearest to the Assistant ({fixed(nearest.mean_gaps)} "
        f"gaps) and the {farthest.kind} ones farthest away ({fixed(farthest.mean_gaps)})."
    )


def _kind_table(ranked: Sequence[KindStanding]) -> Table:
    rows = [
        (
            one.kind,
            str(len(one.roles)),
            fixed(one.mean_gaps),
            f"{one.roles[0].role} ({fixed(one.roles[0].gaps)})",
            f"{one.roles[-1].role} ({fixed(one.roles[-1].gaps)})",
        )
        for one in ranked
    ]
    header = ("kind", "roles", "mean, gaps", "farthest from the Assistant", "nearest to it")
    return Table("Kinds of roles along the axis.", header, tuple(rows))


def _say_ranks(standings: tuple[RoleStanding, ...], found: PersonaMap) -> str:
    ends = min(5, len(standings) // 2)
    above = sum(standing.gaps > 1 for standing in standings)
    words = [
        f"The Assistant Axis at layer {found.axis.layer} points from the mean of the roles to the "
        "default."
    ]
    if ends:
        low = listed([standing.name for standing in standings[:ends]])
        high = listed([standing.name for standing in standings[::-1][:ends]])
        words.append(f"Furthest from the Assistant: {low}. Nearest to it: {high}.")
    words.append(
        "No role projects above the default."
        if above == 0
        else f"{counted(above, 'role')} of {len(standings)} project above the default."
    )
    return " ".join(words)


def _quality(inputs: ReportInputs, found: PersonaMap) -> Section:
    band = inputs.calibration.setting.floors.layers if inputs.calibration is not None else ()
    shaded = " Shaded: the layers of the chosen floors." if band else ""
    picture = Picture(
        "quality",
        partial(figures.draw_quality, found.quality, found.axis, band=band),
        f"Dashed upright line: the recommended layer {found.axis.layer}.{shaded} Pale bands are "
        "95 % bootstrap intervals.",
        "Six line charts over the layers: AUC, d′, cosine with PC1, split-half cosines, length of "
        "the axis, percentile of the default.",
    )
    at = quality_at(found, found.axis.layer)
    words = (_say_separation(at), _say_stability(at, found), _table_hint())
    return Section("quality", _TITLES["quality"], words, (picture,), (_quality_table(found),))


def _say_separation(at: LayerQuality) -> str:
    return (
        f"At the recommended layer {at.layer}, a held-out answer of the default projects above a "
        f"held-out answer in a role in {percent(at.auc.value)} of pairs (AUC "
        f"{fixed(at.auc.value)}, 95 % interval {at.auc.bounds()}); the means are "
        f"{fixed(at.d_prime.value)} standard deviations apart (d′, {at.d_prime.bounds()}). "
        f"{_judge_auc(at)}"
    )


def _judge_auc(at: LayerQuality) -> str:
    if not at.auc.low > 0.5:
        return "That cannot be told from chance: do not steer with this axis."
    if at.auc.value >= 0.9:
        return "The axis tells the two apart clearly."
    if at.auc.value >= 0.75:
        return "The axis tells the two apart well, answer by answer with some overlap."
    return "The axis tells the two apart on average, but single answers overlap widely."


def _say_stability(at: LayerQuality, found: PersonaMap) -> str:
    beats = at.cos_pc1.low > at.cos_pc1_null
    main = (
        "so the axis lies along the main direction of persona space more than chance allows"
        if beats
        else "so its agreement with the main direction of persona space may be chance"
    )
    norm = float(found.axis.residual_norm[at.layer])
    length = f"{percent(at.axis_norm / norm)} of the residual stream's" if norm > 0 else "unknown"
    return (
        f"Made from half of the questions, the axis agrees with the other half's at cosine "
        f"{fixed(at.split_half_questions)}; from half of the roles, at "
        f"{fixed(at.split_half_roles)}. Its |cosine| with PC1 is {fixed(at.cos_pc1.value)} "
        f"({at.cos_pc1.bounds()}) against {fixed(at.cos_pc1_null)} for shuffled labels, {main}. "
        f"Its length is {number(at.axis_norm)}, {length}; its ten largest dimensions hold "
        f"{percent(at.top_dims_share)} of its square."
    )


def _table_hint() -> str:
    return "A layer is good for reading and steering where all curves are high and flat."


def _quality_table(found: PersonaMap) -> Table:
    header = (
        "layer",
        "AUC",
        "d′",
        "|cos PC1|",
        "null",
        "halves: questions",
        "halves: roles",
        "axis length",
        "default's percentile",
    )
    rows = [
        (
            str(at.layer),
            fixed(at.auc.value, 3),
            fixed(at.d_prime.value),
            fixed(at.cos_pc1.value, 3),
            fixed(at.cos_pc1_null, 3),
            fixed(at.split_half_questions, 3),
            fixed(at.split_half_roles, 3),
            number(at.axis_norm),
            percent(at.default_percentile),
        )
        for at in found.quality
    ]
    marked = next(i for i, at in enumerate(found.quality) if at.layer == found.axis.layer)
    return Table("All layers as a table", header, tuple(rows), marked=marked, is_folded=True)
