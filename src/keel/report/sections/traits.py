"""The section on trait space: what the traits span, and how they lie to the axis."""

from __future__ import annotations

from functools import partial

from keel.report import figures
from keel.report.content import Picture, Section, Table
from keel.report.inputs import ReportInputs
from keel.types import Interval, TraitMap, TraitSide
from keel.words import NOT_A_NUMBER, fixed, listed, percent

MOST_RANKED = 60
"""Traits that the ranking draws; of more it shows both ends."""


def trait_sections(inputs: ReportInputs) -> tuple[Section, ...]:
    """Trait space, of a run that has one."""
    found = inputs.trait_map
    if found is None:
        return ()
    samples = _samples(found, inputs)
    pictures = [_scatter(found, samples), *_leanings(found, samples)]
    words = (_say_space(found), *_say_axis(found))
    return (Section("traits", "Trait space", words, tuple(pictures), (_table(found),)),)


def _samples(found: TraitMap, inputs: ReportInputs) -> dict[str, str]:
    """An encouraged answer of each trait, and one of the default."""
    sides = {trait: TraitSide(trait, True).role for trait in found.traits}
    named = {trait: inputs.samples.get(side, "") for trait, side in sides.items()}
    return named | {role: text for role, text in inputs.samples.items() if role == "default"}


def _say_space(found: TraitMap) -> str:
    space, layer = found.space, found.layer
    order = space.loadings_LRK[layer, :, 0].argsort().tolist()
    ends = min(5, len(order) // 2)
    low = listed([found.traits[place] for place in order[:ends]])
    high = listed([found.traits[place] for place in order[::-1][:ends]])
    needed = space.components_for(0.7, layer)
    told = f"{needed}" if needed else f"more than the {space.variance_ratio_LK.shape[1]} kept"
    return (
        "A trait's vector is the mean of what the model computes while the trait is encouraged "
        f"minus the mean while it is discouraged, here after layer {layer}. PC1 of "
        f"{len(found.traits)} such vectors carries "
        f"{percent(float(space.variance_ratio_LK[layer, 0]))} of their variance, and {told} "
        f"components carry 70 %. At the default's end of PC1: {high}. At the other: {low}."
    )


def _say_axis(found: TraitMap) -> list[str]:
    if found.axis is None:
        return ["This run has no roles, hence no axis that the traits could be compared with."]
    ranked = _ranked(found)
    ends = min(5, len(ranked) // 2)
    most = listed([name for name, _ in ranked[:ends]])
    least = listed([name for name, _ in ranked[::-1][:ends]])
    clear = sum(one.low > 0 or one.high < 0 for _, one in ranked)
    return [
        f"Towards the Assistant along the axis: {most}. Away from it: {least}. Of "
        f"{len(ranked)} traits, {clear} have an interval that leaves out 0."
    ]


def _scatter(found: TraitMap, samples: dict[str, str]) -> Picture:
    draw = partial(
        figures.draw_space,
        found.space,
        found.layer,
        kinds=_kinds(found),
        samples=samples,
        ends=("the other side", "the default's side"),
    )
    return Picture(
        "trait-space",
        draw,
        "Trait vectors on their first two components, in raw units. The star is the default, by "
        "how far it lies from the middle between all that was encouraged and discouraged. Hover "
        "over a point for an encouraged answer; the slider goes through the layers.",
        f"Scatter of {len(found.traits)} traits and the default, layer {found.layer}.",
    )


def _kinds(found: TraitMap) -> dict[str, str]:
    if found.axis is None:
        return dict.fromkeys(found.traits, "trait")
    leaning = found.axis.cosine_LN[found.layer] > 0
    words = {True: "towards the Assistant", False: "away from it"}
    pairs = zip(found.traits, leaning.tolist(), strict=True)
    return {trait: words[is_towards] for trait, is_towards in pairs}


def _leanings(found: TraitMap, samples: dict[str, str]) -> list[Picture]:
    if found.axis is None:
        return []
    ranked = shown = _ranked(found)
    if len(ranked) > MOST_RANKED:
        shown = [*ranked[: MOST_RANKED // 2], *ranked[-MOST_RANKED // 2 :]]
    omitted = len(ranked) - len(shown)
    left_out = f" The {omitted} traits in the middle are left out here." if omitted else ""
    return [
        Picture(
            "trait-cosines",
            partial(figures.draw_leanings, shown, samples=samples),
            f"Cosine of each trait's vector with the Assistant Axis at layer {found.layer}, with "
            f"95 % intervals of resampled questions.{left_out}",
            f"Dot chart of {len(shown)} traits by their cosine with the axis.",
        )
    ]


def _ranked(found: TraitMap) -> list[tuple[str, Interval]]:
    """Every trait's cosine with the axis, the most Assistant-ward first."""
    assert found.axis is not None
    parts = (found.axis.cosine_LN, found.axis.low_LN, found.axis.high_LN)
    rows = zip(*(part[found.layer].tolist() for part in parts), strict=True)
    named = zip(found.traits, (Interval(*row) for row in rows), strict=True)
    return sorted(named, key=lambda one: -one[1].value)


def _table(found: TraitMap) -> Table:
    cosines = {} if found.axis is None else dict(_ranked(found))
    rows = tuple(
        (
            vector.trait,
            f"{vector.differing} of {vector.judged}" if vector.judged else "not judged",
            fixed(float(found.split_half_LN[found.layer, place])),
            fixed(float(found.default_position_LN[found.layer, place])),
            cosines[vector.trait].text() if vector.trait in cosines else NOT_A_NUMBER,
        )
        for place, vector in enumerate(found.vectors)
    )
    header = (
        "trait",
        "pairs that differ",
        "halves of the questions",
        "default: 0 discouraged, 1 encouraged",
        "cosine with the axis",
    )
    return Table("All traits as a table", header, rows, is_folded=True)
