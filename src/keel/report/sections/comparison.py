"""Sections on runs side by side, one per pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from keel.report.content import Picture, Section, Table
from keel.report.figures.personas import draw_components, draw_layers, draw_shifts
from keel.report.inputs import ComparisonInputs
from keel.report.textplot import draw_ranking
from keel.types import RunComparison, Shift, SpaceComparison
from keel.words import both_ends, counted, fixed, listed

_ENDS = 12
"""Shifts drawn at each end."""
_MOST_NAMED = 3
"""Roles or traits that the sentence on shifts names at each end."""
_WHOLES = {
    "roles": "a role's whole distance from the mean role",
    "traits": "the whole way from discouraged to encouraged",
}
"""What a shift of 1 is, along roles and along traits."""


def comparison_sections(inputs: ComparisonInputs) -> tuple[Section, ...]:
    """One section per pair of runs."""
    return tuple(_pair_section(pair, at) for at, pair in enumerate(inputs.comparisons, start=1))


def _pair_section(pair: RunComparison, number: int) -> Section:
    both = {"roles": pair.roles, "traits": pair.traits}
    spaces = {what: space for what, space in both.items() if space is not None}
    moved = {} if pair.shift is None else {"roles": pair.shift.roles, "traits": pair.shift.traits}
    shifts = {what: ranked for what, ranked in moved.items() if ranked}
    pictures = [
        Picture(
            f"components-{number}",
            partial(draw_components, {what: space.components for what, space in spaces.items()}),
            "Correlation between the two runs of the loadings on each component, with 95 % "
            "intervals about other names. Past PC1 the amount alone is drawn: the sign of a later "
            "component means nothing.",
            "Bar chart of correlations between the components of two runs.",
        )
    ]
    vectors = {"role vectors": pair.role_vectors, "trait vectors": pair.trait_vectors}
    curves = {} if pair.axes is None else {"axes": pair.axes}
    curves |= {what: cosines.by_layer for what, cosines in vectors.items() if cosines is not None}
    layers = [part.layer for part in (pair.shift, *vectors.values()) if part is not None]
    if curves:
        pictures.append(
            Picture(
                f"layers-{number}",
                partial(draw_layers, curves, layers[0]),
                "Cosines between the two models at every layer, with 95 % intervals: of axes about "
                "other roles, questions and answers, of vectors about other names. Dashed upright "
                "line: the layer that is read.",
                "Line chart of cosines between two models over the layers.",
            )
        )
    pictures += [_shift_picture(what, ranked, number) for what, ranked in shifts.items()]
    tables = [_component_table(what, space) for what, space in spaces.items()]
    tables += [
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
        for what, ranked in shifts.items()
    ]
    title = f"{pair.first} and {pair.second}"
    words = tuple(_sentences(pair, shifts))
    return Section(f"pair-{number}", title, words, tuple(pictures), tuple(tables))


def _sentences(pair: RunComparison, shifts: Mapping[str, Sequence[Shift]]) -> Iterator[str]:
    for what, space, order, along in (
        ("roles", pair.roles, pair.standings, "their places on the two axes"),
        ("traits", pair.traits, pair.leanings, "their cosines with the axes"),
    ):
        if space is not None:
            yield (
                f"Over {len(space.names)} {what} in common, loadings on PC1 correlate at "
                f"{space.components[0].text()}"
                f"{'' if order is None else f', {along} at {order.text()}'}; the intervals are "
                f"about other {what}, with these answers. {_say_null(what, space)}."
            )
    if pair.axes is not None and pair.role_vectors is not None:
        layer = pair.role_vectors.layer
        null = ""
        if pair.axes_null is not None:
            alone = fixed(pair.axes_null[layer])
            null = f" Axes of the two that share no role have {alone}: the default's part."
        yield (
            f"At layer {layer} the two axes have cosine {pair.axes[layer].text()}, noise taken "
            "out, with an interval about other roles, questions and answers; of few roles it is "
            "wider than it need be where the axes are nearly the same."
            f"{null} Role vectors, less their mean, have "
            f"{pair.role_vectors.by_layer[layer].text()} on average, about other roles with these "
            "answers."
        )
    if (traits := pair.trait_vectors) is not None:
        mean = traits.by_layer[traits.layer].text()
        yield f"Trait vectors have cosine {mean} on average, about other traits with these answers."
    if (shift := pair.shift) is not None:
        way = "towards the Assistant's side" if shift.gaps > 0 else "towards the roles"
        yield (
            f"From {pair.first} to {pair.second} the default moved by {fixed(abs(shift.gaps))} gap "
            f"units {way} along the first run's axis, at layer {shift.layer}."
        )
    for what, ranked in shifts.items():
        most, least = both_ends([shift.name for shift in ranked], _MOST_NAMED)
        if most:
            yield (
                f"Among {what} it went most towards {listed(most)}, and most away from "
                f"{listed(least)}."
            )


def _shift_picture(what: str, ranked: Sequence[Shift], number: int) -> Picture:
    shown = ranked if len(ranked) <= 2 * _ENDS else [*ranked[:_ENDS], *ranked[-_ENDS:]]
    return Picture(
        f"shift-{what}-{number}",
        partial(draw_shifts, shown),
        f"Where the default went, along {what}: 1 is {_WHOLES[what]}. Of more than "
        f"{counted(2 * _ENDS, 'bar')} both ends are drawn.",
        f"Bar chart of the default's shift along {what}.",
        partial(
            draw_ranking,
            [(shift.name, shift.share) for shift in ranked],
            legend=f"┊ 0 unmoved, 1 {_WHOLES[what]}",
        ),
    )


def _component_table(what: str, space: SpaceComparison) -> Table:
    rows = tuple(
        (
            f"PC{number}",
            correlation.text(),
            f"PC{partner + 1}",
            fixed(float(space.correlations_KK[number - 1, partner])),
        )
        for number, (correlation, partner) in enumerate(
            zip(space.components, space.partners, strict=False), start=1
        )
    )
    return Table(
        f"Components of {what}. {_say_null(what, space)}, the largest of "
        f"{space.correlations_KK.shape[1]} reaches {fixed(space.partner_null)}",
        ("component", "correlation with the same number", "most like", "at"),
        rows,
        bars=space.components[: len(space.partners)],
        bar_header="correlation",
    )


def _say_null(what: str, space: SpaceComparison) -> str:
    """What a correlation is held against: the amount that unrelated names reach by chance."""
    reached = f"reaches ±{fixed(space.null)} in one of twenty"
    return f"With {len(space.names)} unrelated {what} a correlation {reached}"
