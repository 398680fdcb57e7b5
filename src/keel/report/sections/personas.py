"""Sections on what an extraction measured: persona space, ranks, quality of the axis, traits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TypeVar

from keel.report.content import Picture, Section, Table, missing
from keel.report.figures.personas import (
    draw_leanings,
    draw_quality,
    draw_ranks,
    draw_space,
    draw_variance,
)
from keel.report.inputs import ReportInputs, RoleStanding, quality_at, rank_kinds, rank_roles
from keel.report.textplot import draw_curves, draw_ranking
from keel.types import DEFAULT_ROLE, Interval, LayerQuality, PersonaMap, TraitMap, TraitSide
from keel.words import NOT_A_NUMBER, both_ends, counted, fixed, listed, number, percent

MOST_RANKED = 60
"""Roles or traits that a ranking draws; of more it shows both ends."""
_MOST_NAMED = 5
"""Roles or traits that a sentence names at each end."""
_FEWEST_KINDS = 3
_SHARES = (0.7, 0.8, 0.9)
"""Shares of variance of which it is said how many components carry them."""
_Ranked = TypeVar("_Ranked")
_TITLES = {
    "space": "Persona space",
    "ranks": "Roles along the Assistant Axis",
    "quality": "How good the axis is, layer by layer",
}


def persona_sections(inputs: ReportInputs) -> tuple[Section, ...]:
    """Persona space, the roles' ranking, and the quality curves."""
    if inputs.persona_map is None:
        model = "MODEL" if inputs.identity is None else inputs.identity.model_id
        what, command = "Not extracted yet", f"keel extract {model} -o RUN"
        return tuple(missing(id, _TITLES[id], what=what, command=command) for id in _TITLES)
    return (
        _space_section(inputs, inputs.persona_map),
        _ranks_section(inputs, inputs.persona_map),
        _quality_section(inputs, inputs.persona_map),
    )


def _space_section(inputs: ReportInputs, persona_map: PersonaMap) -> Section:
    layer, space = persona_map.axis.layer, persona_map.space
    counts = _say_counts(inputs, persona_map)
    scatter = Picture(
        "persona-space",
        partial(draw_space, space, layer, kinds=inputs.role_kinds, samples=inputs.samples),
        "Roles and the default on the first two components, in raw units. Hover over a point for "
        "its role and a sample answer; names without room are shown there too. The slider goes "
        "through the layers.",
        f"Scatter of {len(space.roles)} roles and the default on PC1 and PC2, layer {layer}.",
        sample=f"{counts}; means: the ranking gives their intervals.",
    )
    spectrum = Picture(
        "variance",
        partial(draw_variance, space, layer, shares=_SHARES),
        f"Share of the variance between roles in each component at layer {layer}, with how many "
        "components reach 70, 80 and 90 %.",
        f"Bar chart of the variance of the components at layer {layer}.",
        sample=f"{counts}; no interval.",
    )
    default = float(space.default_coordinates_LK[layer, 0])
    beyond = int((space.coordinates_LRK[layer, :, 0] > default).sum())
    standing = (
        "no role lies further out than it: the default sits at the Assistant's end"
        if beyond == 0
        else f"{counted(beyond, 'role')} of {len(space.roles)} lie further out than it"
    )
    where = (
        f"Every role has a place: the mean of what the model computes after layer {layer} while it "
        "answers in that role. So has the default, the model when no role is set, drawn as a star. "
        "The two directions drawn are those along which the roles differ most; the first, PC1, is "
        f"turned so that the Assistant's side is on the right. Along it, {standing}."
    )
    more = f"more than the {space.variance_ratio_LK.shape[1]} kept"
    needed = listed(
        [f"{space.components_for(share, layer) or more} for {percent(share)}" for share in _SHARES]
    )
    spread = (
        f"PC1 carries {percent(float(space.variance_ratio_LK[layer, 0]))} of the variance between "
        f"{len(space.roles)} roles. Components needed: {needed} of the variance. The fewer, the "
        "more the roles differ in the same few ways."
    )
    return Section("space", _TITLES["space"], (where, spread), (scatter, spectrum))


def _say_counts(inputs: ReportInputs, persona_map: PersonaMap) -> str:
    answers = sum(vector.count for vector in persona_map.vectors)
    share = inputs.cut_share
    cut = "" if share is None else f"; {percent(share)} of all answers cut at the token limit"
    return (
        f"n = {answers:,} answers in {counted(len(persona_map.vectors), 'role')} and "
        f"{persona_map.default_count:,} of the default{cut}"
    )


def _ranks_section(inputs: ReportInputs, persona_map: PersonaMap) -> Section:
    standings = rank_roles(persona_map)
    shown, left_out = _both_ends(standings, "roles")
    picture = Picture(
        "ranks",
        partial(draw_ranks, shown, kinds=inputs.role_kinds, samples=inputs.samples),
        f"Projection of each role at layer {persona_map.axis.layer} in gap units: 0 is the mean of "
        f"the roles, 1 the mean of the default.{left_out}",
        f"Dot chart of {len(shown)} roles by their projection on the Assistant Axis.",
        partial(
            draw_ranking,
            [(at.name, at.interval or at.gaps) for at in reversed(standings)],
            marks=(0.0, 1.0),
            legend="gap units: ┊ at 0 the mean of the roles, at 1 that of the default",
        ),
        sample=f"{_say_counts(inputs, persona_map)}; lines are 95 % intervals over questions.",
    )
    low, high = _first_and_last([standing.name for standing in standings])
    ends = f"Furthest from the Assistant: {low}. Nearest to it: {high}. " if low else ""
    intervals = [at.interval for at in standings if at.interval is not None]
    if intervals:
        reach = fmean(at.high - at.low for at in intervals) / 2
        ends += f"A single role is known to ±{fixed(reach)} gaps or so (95 %, over questions). "
    above = sum(standing.gaps > 1 for standing in standings)
    beyond = (
        f"{counted(above, 'role')} of {len(standings)} project above the default."
        if above
        else "No role projects above the default."
    )
    words = [
        f"The Assistant Axis at layer {persona_map.axis.layer} points from the mean of the roles "
        f"to the default. {ends}{beyond}"
    ]
    tables = [_standings_table(standings)]
    ranked = rank_kinds(standings, inputs.role_kinds)
    if len(ranked) >= _FEWEST_KINDS:
        nearest, farthest = ranked[0], ranked[-1]
        words.append(
            "A role alone stands where it does partly by chance; a kind of roles says more. On "
            f"average the {nearest.kind} roles stand nearest to the Assistant "
            f"(gaps: {nearest.mean.text()}) and the {farthest.kind} ones farthest away "
            f"({farthest.mean.text()}); 95 %, about other roles of these kinds."
        )

        def with_gaps(standing: RoleStanding) -> str:
            return f"{standing.role} ({fixed(standing.gaps)})"

        tables.append(
            Table.of(
                "Kinds of roles along the axis; intervals of 95 %, about other roles of a kind",
                ranked,
                {
                    "kind": lambda kind: kind.kind,
                    "roles": lambda kind: str(len(kind.roles)),
                    "mean, gaps": lambda kind: kind.mean.text(),
                    "farthest from the Assistant": lambda kind: with_gaps(kind.roles[0]),
                    "nearest to it": lambda kind: with_gaps(kind.roles[-1]),
                },
            )
        )
    return Section("ranks", _TITLES["ranks"], tuple(words), (picture,), tuple(tables))


def _standings_table(standings: Sequence[RoleStanding]) -> Table:
    return Table.of(
        "Roles, the nearest to the Assistant first",
        standings[::-1],
        {
            "role": lambda at: at.name,
            "gaps": lambda at: fixed(at.gaps),
            "95 %": lambda at: NOT_A_NUMBER if at.interval is None else at.interval.bounds(),
            "rank may be": lambda at: (
                NOT_A_NUMBER if at.ranks is None else f"{at.ranks[0]} to {at.ranks[1]}"
            ),
            "answers": lambda at: str(at.count),
        },
        is_folded=True,
    )


def _first_and_last(names: Sequence[str]) -> tuple[str, str]:
    """Up to five names from the beginning, and as many from the end, the last first."""
    first, last = both_ends(names, _MOST_NAMED)
    return listed(first), listed(last)


def _both_ends(ranked: Sequence[_Ranked], what: str) -> tuple[Sequence[_Ranked], str]:
    """The rows that a ranking draws, and a sentence that counts those left out."""
    omitted = len(ranked) - MOST_RANKED
    if omitted <= 0:
        return ranked, ""
    half = MOST_RANKED // 2
    left_out = f" The {omitted} {what} in the middle are left out here."
    return [*ranked[:half], *ranked[-half:]], left_out


def _quality_section(inputs: ReportInputs, persona_map: PersonaMap) -> Section:
    quality, layer = persona_map.quality, persona_map.axis.layer
    band = inputs.calibration.setting.floors.layers if inputs.calibration is not None else ()
    shaded = " Shaded: the layers of the chosen floors." if band else ""
    curves = {
        "AUC": [at.auc.value for at in quality],
        "d′": [at.d_prime.value for at in quality],
        "|cos(axis, PC1)|": [at.cos_pc1.value for at in quality],
        "halves of the questions": [at.split_half_questions for at in quality],
        "halves of the roles": [at.split_half_roles for at in quality],
    }
    picture = Picture(
        "quality",
        partial(draw_quality, quality, persona_map.axis, band=band),
        f"Dashed upright line: the recommended layer {layer}.{shaded} Pale bands are 95 % "
        "intervals.",
        "Six line charts over the layers: AUC, d′, cosine with PC1, split-half cosines, length of "
        "the axis, percentile of the default.",
        partial(draw_curves, curves, layer),
        sample=_say_counts(inputs, persona_map) + ".",
    )
    at = quality_at(persona_map, layer)
    words = (
        _say_separation(at),
        _say_untrained(inputs),
        _say_stability(at, float(persona_map.axis.residual_norm[layer]), len(persona_map.vectors)),
        f"Measured on {_say_counts(inputs, persona_map).removeprefix('n = ')}.",
        "A layer is good for reading and steering where all curves are high and flat.",
    )
    table = Table.of(
        "All layers as a table",
        quality,
        {
            "layer": lambda at: str(at.layer),
            "AUC": lambda at: fixed(at.auc.value, 3),
            "d′": lambda at: fixed(at.d_prime.value),
            "|cos PC1|": lambda at: fixed(at.cos_pc1.value, 3),
            "of roles": lambda at: fixed(at.cos_pc1_null, 3),
            "halves: questions": lambda at: fixed(at.split_half_questions, 3),
            "halves: roles": lambda at: fixed(at.split_half_roles, 3),
            "axis length": lambda at: number(at.axis_norm),
            "default's percentile": lambda at: percent(at.default_percentile),
        },
        marked=lambda at: at.layer == layer,
        is_folded=True,
    )
    of_prompts = Table.of(
        "The default by its system prompts; values of these answers, without intervals",
        list(enumerate(at.default_prompts)),
        {
            "prompt": lambda row: f"p{row[0]}",
            "AUC, held out": lambda row: fixed(row[1].auc),
            "its axis' cosine with the others'": lambda row: fixed(row[1].cosine),
        },
    )
    tables = (of_prompts, table) if at.default_prompts else (table,)
    return Section("quality", _TITLES["quality"], words, (picture,), tables)


def _say_separation(at: LayerQuality) -> str:
    if not at.auc.low > 0.5:
        verdict = "That cannot be told from chance: do not steer with this axis."
    elif at.auc.value >= 0.9:
        verdict = "The axis tells the two apart clearly."
    elif at.auc.value >= 0.75:
        verdict = "The axis tells the two apart well, answer by answer with some overlap."
    else:
        verdict = "The axis tells the two apart on average, but single answers overlap widely."
    return (
        f"At the recommended layer {at.layer}, a held-out answer of the default projects above a "
        f"held-out answer in a role in {percent(at.auc.value)} of pairs (AUC "
        f"{fixed(at.auc.value)}, 95 % interval {at.auc.bounds()}); the means are "
        f"{fixed(at.d_prime.value)} standard deviations apart (d′, {at.d_prime.bounds()}). "
        f"{verdict}"
    )


def _say_untrained(inputs: ReportInputs) -> str:
    null, (low, high) = inputs.untrained, inputs.untrained_aucs
    if null is None:
        return (
            f"Models with random weights, which know no Assistant, reach {fixed(low)} to "
            f"{fixed(high)} (AUC, other shapes and prompts): answers carry traces of their prompt. "
            "What this shape reaches on these prompts: keel extract with --null untrained."
        )
    d_low, d_high = null.d_prime_range
    layers = sorted({model.layer for model in null.models})
    how = (
        "reading the same answers"
        if null.max_new_tokens is None
        else (
            f"answering {null.answers:,} of the run's prompts ({counted(null.roles, 'role')}, "
            f"{counted(null.questions, 'question')}) in up to {null.max_new_tokens} tokens"
        )
    )
    return (
        f"{counted(len(null.models), 'model')} of this shape with random weights, which know no "
        f"Assistant, reach an AUC of {fixed(low)} to {fixed(high)} and a d′ of {fixed(d_low)} to "
        f"{fixed(d_high)}, {how}, at layer {listed([str(layer) for layer in layers])}. So much "
        "comes from traces of the prompt alone: AUC tells whether an axis can be used, and not "
        "whether the model learnt it."
    )


def _say_stability(at: LayerQuality, residual_norm: float, roles: int) -> str:
    mains = {
        True: "so the axis lies along the main direction of persona space more than a role's would",
        False: "so it lies no nearer to the main direction of persona space than a role's may",
        None: "which is no verdict on whether the axis lies nearer to the main direction of "
        f"persona space than a role's: {at.pc1_caveat(roles)}",
    }
    main = mains[at.is_along_pc1(roles)]
    p = "" if at.cos_pc1_p is None else f" (p {fixed(at.cos_pc1_p)})"
    share = percent(at.axis_norm / residual_norm) if residual_norm > 0 else ""
    length = f"{share} of the residual stream's" if share else "unknown"
    return (
        f"Made from half of the questions, the axis agrees with the other half's at cosine "
        f"{fixed(at.split_half_questions)}; from half of the roles, at "
        f"{fixed(at.split_half_roles)}. Its |cosine| with PC1, corrected for noise and for few "
        f"roles, is {at.cos_pc1.text()} (of few roles, an interval that is wider than it need be); "
        "of the roles, each taken as the default, one in twenty "
        f"reaches {fixed(at.cos_pc1_null)}{p}, {main}. "
        f"Its length is {number(at.axis_norm)}, {length}; its ten largest dimensions hold "
        f"{percent(at.top_dims_share)} of its square."
    )


def trait_sections(inputs: ReportInputs) -> tuple[Section, ...]:
    """Trait space, of a run that has one: what the traits span, and how they lie to the axis."""
    trait_map = inputs.trait_map
    if trait_map is None:
        return ()
    layer, space, axis = trait_map.layer, trait_map.space, trait_map.axis
    order = space.loadings_LRK[layer, :, 0].argsort().tolist()
    low, high = _first_and_last([trait_map.traits[at] for at in order])
    needed = space.components_for(0.7, layer)
    components = needed or f"more than the {space.variance_ratio_LK.shape[1]} kept"
    words = [
        "A trait's vector is the mean of what the model computes while the trait is encouraged "
        f"minus the mean while it is discouraged, here after layer {layer}. PC1 of "
        f"{len(trait_map.traits)} such vectors carries "
        f"{percent(float(space.variance_ratio_LK[layer, 0]))} of their variance, and {components} "
        f"components carry 70 %. At the default's end of PC1: {high}. At the other: {low}."
    ]
    cosines: list[tuple[str, Interval]] = []
    if axis is None:
        words.append("This run has no roles, hence no axis that the traits could be compared with.")
    else:
        parts = (axis.cosine_LN, axis.low_LN, axis.high_LN)
        rows = zip(*(part[layer].tolist() for part in parts), strict=True)
        named = zip(trait_map.traits, (Interval(*row) for row in rows), strict=True)
        cosines = sorted(named, key=lambda pair: -pair[1].value)
        most, least = _first_and_last([trait for trait, _ in cosines])
        clear = sum(cosine.low > 0 or cosine.high < 0 for _, cosine in cosines)
        words.append(
            f"Towards the Assistant along the axis: {most}. Away from it: {least}. Of "
            f"{len(cosines)} traits, {clear} have an interval that leaves out 0."
        )
    pictures = tuple(_trait_pictures(trait_map, cosines, inputs.samples))
    tables = (_trait_table(trait_map, dict(cosines)),)
    return (Section("traits", "Trait space", tuple(words), pictures, tables),)


def _trait_pictures(
    trait_map: TraitMap, cosines: Sequence[tuple[str, Interval]], samples: Mapping[str, str]
) -> Iterator[Picture]:
    """The scatter, and the cosines with the axis, the most Assistant-ward first, if any."""
    encouraged = {trait: samples.get(TraitSide(trait, True).role, "") for trait in trait_map.traits}
    encouraged[DEFAULT_ROLE] = samples.get(DEFAULT_ROLE, "")
    kinds = dict.fromkeys(trait_map.traits, "trait") | {
        trait: "towards the Assistant" if cosine.value > 0 else "away from it"
        for trait, cosine in cosines
    }
    yield Picture(
        "trait-space",
        partial(
            draw_space,
            trait_map.space,
            trait_map.layer,
            kinds=kinds,
            samples=encouraged,
            ends=("the other side", "the default's side"),
        ),
        "Trait vectors on their first two components, in raw units. The star is the default, by "
        "how far it lies from the middle between all that was encouraged and discouraged. Hover "
        "over a point for an encouraged answer; the slider goes through the layers.",
        f"Scatter of {len(trait_map.traits)} traits and the default, layer {trait_map.layer}.",
        sample=f"n = {counted(len(trait_map.traits), 'trait')}; no interval.",
    )
    if cosines:
        shown, left_out = _both_ends(cosines, "traits")
        yield Picture(
            "trait-cosines",
            partial(draw_leanings, shown, samples=encouraged),
            f"Cosine of each trait's vector with the Assistant Axis at layer "
            f"{trait_map.layer}, noise taken out, with 95 % intervals about other questions, "
            f"answers and roles.{left_out}",
            f"Dot chart of {len(shown)} traits by their cosine with the axis.",
            partial(draw_ranking, cosines, legend="cosine with the axis: ┊ at 0"),
            sample=f"n = {counted(len(cosines), 'trait')}.",
        )


def _trait_table(trait_map: TraitMap, cosines: Mapping[str, Interval]) -> Table:
    halves = trait_map.split_half_LN[trait_map.layer].tolist()
    defaults = trait_map.default_position_LN[trait_map.layer].tolist()
    return Table.of(
        "All traits as a table",
        zip(trait_map.vectors, halves, defaults, strict=True),
        {
            "trait": lambda row: row[0].trait,
            "pairs that differ": lambda row: (
                f"{row[0].differing} of {row[0].judged}" if row[0].judged else "not judged"
            ),
            "halves of the questions": lambda row: fixed(row[1]),
            "default: 0 discouraged, 1 encouraged": lambda row: fixed(row[2]),
            "cosine with the axis": lambda row: (
                cosines[row[0].trait].text() if row[0].trait in cosines else NOT_A_NUMBER
            ),
        },
        is_folded=True,
    )
