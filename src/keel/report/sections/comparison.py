"""Sections on runs side by side, one per pair."""

from __future__ import annotations

from functools import partial

from keel.report import figures
from keel.report.content import Picture, Section, Table
from keel.report.inputs import ComparisonInputs
from keel.types import DefaultShift, Interval, RunComparison, Shift
from keel.words import counted, fixed, listed

_ENDS = 12
"""Shifts drawn at each end."""


def comparison_sections(inputs: ComparisonInputs) -> tuple[Section, ...]:
    """One section per pair of runs."""
    return tuple(_pair(one, number) for number, one in enumerate(inputs.comparisons, start=1))


def _pair(found: RunComparison, number: int) -> Section:
    words = [*_say_spaces(found), *_say_vectors(found), *_say_shift(found)]
    return Section(
        f"pair-{number}",
        f"{found.first} and {found.second}",
        tuple(words),
        tuple(_pictures(found, number)),
        tuple(_tables(found)),
    )


def _say_spaces(found: RunComparison) -> list[str]:
    words = []
    for what, space, order in (
        ("roles", found.roles, found.standings),
        ("traits", found.traits, found.leanings),
    ):
        if space is None:
            continue
        told = (
            f"Over {len(space.names)} {what} in common, loadings on PC1 correlate at "
            f"{space.components[0].text()}"
        )
        along = {"roles": "their places on the two axes", "traits": "their cosines with the axes"}
        words.append(f"{told}{'' if order is None else f', {along[what]} at {order.text()}'}.")
    return words


def _say_vectors(found: RunComparison) -> list[str]:
    words = []
    if found.axes is not None and found.role_vectors is not None:
        layer = found.role_vectors.layer
        words.append(
            f"At layer {layer} the two axes have cosine {found.axes[layer].text()}; role vectors, "
            f"less their mean, have {found.role_vectors.by_layer[layer].text()} on average."
        )
    if (traits := found.trait_vectors) is not None:
        words.append(
            f"Trait vectors have cosine {traits.by_layer[traits.layer].text()} on average."
        )
    return words


def _say_shift(found: RunComparison) -> list[str]:
    shift = found.shift
    if shift is None:
        return []
    way = "towards the Assistant's side" if shift.gaps > 0 else "towards the roles"
    words = [
        f"From {found.first} to {found.second} the default moved by {fixed(abs(shift.gaps))} gap "
        f"units {way} along the first run's axis, at layer {shift.layer}."
    ]
    for what, ranked in (("roles", shift.roles), ("traits", shift.traits)):
        if ranked:
            most, least = listed(_names(ranked[:3])), listed(_names(ranked[::-1][:3]))
            words.append(f"Among {what} it went most towards {most}, and most away from {least}.")
    return words


def _pictures(found: RunComparison, number: int) -> list[Picture]:
    spaces = {"roles": found.roles, "traits": found.traits}
    parts = {what: space.components for what, space in spaces.items() if space is not None}
    pictures = [
        Picture(
            f"components-{number}",
            partial(figures.draw_components, parts),
            "Correlation between the two runs of the loadings on each component, with 95 % "
            "intervals of resampled names. Past PC1 the amount alone is drawn: the sign of a later "
            "component means nothing.",
            "Bar chart of correlations between the components of two runs.",
        )
    ]
    curves = _curves(found)
    if curves:
        layer = found.shift.layer if found.shift is not None else _layer(found)
        pictures.append(
            Picture(
                f"layers-{number}",
                partial(figures.draw_layers, curves, layer),
                "Cosines between the two models at every layer, with 95 % intervals of resampled "
                "names. Dashed upright line: the layer that is read.",
                "Line chart of cosines between two models over the layers.",
            )
        )
    return pictures + _shift_pictures(found.shift, number)


def _shift_pictures(shift: DefaultShift | None, number: int) -> list[Picture]:
    if shift is None:
        return []
    return [
        Picture(
            f"shift-{what}-{number}",
            partial(figures.draw_shifts, _both_ends(ranked)),
            f"Where the default went, along {what}: 1 is {whole}. Of more than "
            f"{counted(2 * _ENDS, 'bar')} both ends are drawn.",
            f"Bar chart of the default's shift along {what}.",
        )
        for what, ranked, whole in (
            ("roles", shift.roles, "a role's whole distance from the mean role"),
            ("traits", shift.traits, "the whole way from discouraged to encouraged"),
        )
        if ranked
    ]


def _curves(found: RunComparison) -> dict[str, tuple[Interval, ...]]:
    curves = {}
    if found.axes is not None:
        curves["axes"] = found.axes
    if found.role_vectors is not None:
        curves["role vectors"] = found.role_vectors.by_layer
    if found.trait_vectors is not None:
        curves["trait vectors"] = found.trait_vectors.by_layer
    return curves


def _layer(found: RunComparison) -> int:
    assert found.trait_vectors is not None
    return found.trait_vectors.layer


def _tables(found: RunComparison) -> list[Table]:
    tables = []
    for what, space in (("roles", found.roles), ("traits", found.traits)):
        if space is not None:
            rows = tuple(
                (
                    f"PC{number}",
                    one.text(),
                    f"PC{partner + 1}",
                    fixed(float(space.correlations_KK[number - 1, partner])),
                )
                for number, (one, partner) in enumerate(
                    zip(space.components, space.partners, strict=False), start=1
                )
            )
            header = ("component", "correlation with the same number", "most like", "at")
            tables.append(Table(f"Components of {what}", header, rows))
    if found.shift is not None:
        tables += [_shift_table(w, s) for w, s in _ranked(found.shift).items() if s]
    return tables


def _ranked(shift: DefaultShift) -> dict[str, tuple[Shift, ...]]:
    return {"roles": shift.roles, "traits": shift.traits}


def _shift_table(what: str, ranked: tuple[Shift, ...]) -> Table:
    rows = tuple((one.name, fixed(one.share, 3), fixed(one.cosine)) for one in ranked)
    return Table(f"Shift along all {what}", (what, "share", "cosine"), rows, is_folded=True)


def _both_ends(ranked: tuple[Shift, ...]) -> tuple[Shift, ...]:
    return ranked if len(ranked) <= 2 * _ENDS else (*ranked[:_ENDS], *ranked[-_ENDS:])


def _names(ranked: tuple[Shift, ...]) -> list[str]:
    return [shift.name for shift in ranked]
