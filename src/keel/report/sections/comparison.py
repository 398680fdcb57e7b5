"""Sections on runs side by side, one per pair."""

from __future__ import annotations

from functools import partial

from keel.report.content import Picture, Section, Table
from keel.report.figures.personas import draw_components, draw_layers, draw_shifts
from keel.report.inputs import ComparisonInputs
from keel.report.textplot import draw_ranking
from keel.types import Interval, RunComparison, Shift
from keel.words import counted, fixed, listed

_ENDS = 12
"""Shifts drawn at each end."""


def comparison_sections(inputs: ComparisonInputs) -> tuple[Section, ...]:
    """One section per pair of runs."""
    return tuple(
        Section(
            f"pair-{number}",
            f"{pair.first} and {pair.second}",
            (*_say_spaces(pair), *_say_vectors(pair), *_say_shift(pair)),
            (*_agreement_pictures(pair, number), *_shift_pictures(pair, number)),
            (*_component_tables(pair), *_shift_tables(pair)),
        )
        for number, pair in enumerate(inputs.comparisons, start=1)
    )


def _say_spaces(pair: RunComparison) -> list[str]:
    words = []
    for what, space, order, along in (
        ("roles", pair.roles, pair.standings, "their places on the two axes"),
        ("traits", pair.traits, pair.leanings, "their cosines with the axes"),
    ):
        if space is not None:
            words.append(
                f"Over {len(space.names)} {what} in common, loadings on PC1 correlate at "
                f"{space.components[0].text()}"
                f"{'' if order is None else f', {along} at {order.text()}'}."
            )
    return words


def _say_vectors(pair: RunComparison) -> list[str]:
    words = []
    if pair.axes is not None and pair.role_vectors is not None:
        layer = pair.role_vectors.layer
        words.append(
            f"At layer {layer} the two axes have cosine {pair.axes[layer].text()}; role vectors, "
            f"less their mean, have {pair.role_vectors.by_layer[layer].text()} on average."
        )
    if (traits := pair.trait_vectors) is not None:
        words.append(
            f"Trait vectors have cosine {traits.by_layer[traits.layer].text()} on average."
        )
    return words


def _say_shift(pair: RunComparison) -> list[str]:
    shift = pair.shift
    if shift is None:
        return []
    way = "towards the Assistant's side" if shift.gaps > 0 else "towards the roles"
    words = [
        f"From {pair.first} to {pair.second} the default moved by {fixed(abs(shift.gaps))} gap "
        f"units {way} along the first run's axis, at layer {shift.layer}."
    ]
    for what, ranked in _ranked_shifts(pair).items():
        most = listed([shift.name for shift in ranked[:3]])
        least = listed([shift.name for shift in ranked[::-1][:3]])
        words.append(f"Among {what} it went most towards {most}, and most away from {least}.")
    return words


def _ranked_shifts(pair: RunComparison) -> dict[str, tuple[Shift, ...]]:
    """Where the default went along roles and along traits, those that both runs have."""
    if pair.shift is None:
        return {}
    ranked = {"roles": pair.shift.roles, "traits": pair.shift.traits}
    return {what: shifts for what, shifts in ranked.items() if shifts}


def _agreement_pictures(pair: RunComparison, number: int) -> list[Picture]:
    spaces = {"roles": pair.roles, "traits": pair.traits}
    parts = {what: space.components for what, space in spaces.items() if space is not None}
    pictures = [
        Picture(
            f"components-{number}",
            partial(draw_components, parts),
            "Correlation between the two runs of the loadings on each component, with 95 % "
            "intervals of resampled names. Past PC1 the amount alone is drawn: the sign of a later "
            "component means nothing.",
            "Bar chart of correlations between the components of two runs.",
        )
    ]
    vectors = {"role vectors": pair.role_vectors, "trait vectors": pair.trait_vectors}
    curves: dict[str, tuple[Interval, ...]] = {} if pair.axes is None else {"axes": pair.axes}
    curves |= {what: cosines.by_layer for what, cosines in vectors.items() if cosines is not None}
    layers = [part.layer for part in (pair.shift, *vectors.values()) if part is not None]
    if curves:
        pictures.append(
            Picture(
                f"layers-{number}",
                partial(draw_layers, curves, layers[0]),
                "Cosines between the two models at every layer, with 95 % intervals of resampled "
                "names. Dashed upright line: the layer that is read.",
                "Line chart of cosines between two models over the layers.",
            )
        )
    return pictures


def _shift_pictures(pair: RunComparison, number: int) -> list[Picture]:
    wholes = {
        "roles": "a role's whole distance from the mean role",
        "traits": "the whole way from discouraged to encouraged",
    }
    return [
        Picture(
            f"shift-{what}-{number}",
            partial(
                draw_shifts,
                ranked if len(ranked) <= 2 * _ENDS else (*ranked[:_ENDS], *ranked[-_ENDS:]),
            ),
            f"Where the default went, along {what}: 1 is {wholes[what]}. Of more than "
            f"{counted(2 * _ENDS, 'bar')} both ends are drawn.",
            f"Bar chart of the default's shift along {what}.",
            partial(
                draw_ranking,
                [(shift.name, shift.share) for shift in ranked],
                legend=f"┊ 0 unmoved, 1 {wholes[what]}",
            ),
        )
        for what, ranked in _ranked_shifts(pair).items()
    ]


def _component_tables(pair: RunComparison) -> list[Table]:
    header = ("component", "correlation with the same number", "most like", "at")
    return [
        Table(
            f"Components of {what}",
            header,
            tuple(
                (
                    f"PC{number}",
                    correlation.text(),
                    f"PC{partner + 1}",
                    fixed(float(space.correlations_KK[number - 1, partner])),
                )
                for number, (correlation, partner) in enumerate(
                    zip(space.components, space.partners, strict=False), start=1
                )
            ),
            bars=space.components[: len(space.partners)],
            bar_header="correlation",
        )
        for what, space in (("roles", pair.roles), ("traits", pair.traits))
        if space is not None
    ]


def _shift_tables(pair: RunComparison) -> list[Table]:
    return [
        Table.of(
            f"Shift along all {what}",
            ranked,
            {
                what: lambda shift: shift.name,
                "share": lambda shift: fixed(shift.share, 3),
                "cosine": lambda shift: fixed(shift.cosine),
            },
            is_folded=True,
        )
        for what, ranked in _ranked_shifts(pair).items()
    ]
