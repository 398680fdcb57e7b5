"""keel compare: the spaces of several runs side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from keel.cli import console
from keel.cli.options import Given, takes
from keel.settings import CompareSettings

if TYPE_CHECKING:
    from keel.types import DefaultShift, Interval, RunComparison, SpaceComparison

EXAMPLES = """
Examples:

    keel compare runs/smollm2 runs/qwen3

    keel compare runs/before runs/after -o shift.html

    keel compare runs/seed0 runs/seed1 runs/seed2 --json
"""
_SHOWN = 5


@takes(CompareSettings())
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Two or more.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write a page with the pictures here.")
    ] = None,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Compare the persona and trait spaces of runs, pair by pair.

    Model families are compared by the order of roles and traits, checkpoints of one width also by
    cosines and by where the default went.
    """
    from keel import pipeline
    from keel.store import open_run

    opened = [open_run(path) for path in runs]
    settings = given.over(CompareSettings())
    with console.waiting("comparing"):
        found = pipeline.compare(opened, settings)
        page = None if out is None else pipeline.comparison_page(opened, found)
    if out is not None and page is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    if json:
        console.print_json({"runs": runs, "page": out, "pairs": [_summary(one) for one in found]})
        return
    for one in found:
        _show(one)
    if out is not None:
        console.stdout.print(f"\n[b]{escape(str(out))}[/b]", soft_wrap=True)


def _summary(found: RunComparison) -> dict[str, Any]:
    partners = {
        what: None if space is None else [place + 1 for place in space.partners]
        for what, space in (("roles", found.roles), ("traits", found.traits))
    }
    told = console.plain(found)
    assert isinstance(told, dict)
    return {**told, "most_like": partners}


def _show(found: RunComparison) -> None:
    console.stdout.print(f"[b]{escape(found.first)}[/b] and [b]{escape(found.second)}[/b]")
    console.stdout.print(_table(found))
    if found.shift is not None:
        for line in _shift_words(found.shift):
            console.stdout.print(line)
    for warning in found.warnings:
        console.stdout.print(f"  [yellow]note:[/yellow] {escape(warning)}")


def _table(found: RunComparison) -> Table:
    table = Table("what agrees", "value", "95 %", box=None, header_style="dim")
    for name, one in _rows(found):
        table.add_row(name, f"{one.value:+.2f}", f"{one.low:+.2f} to {one.high:+.2f}")
    return table


def _rows(found: RunComparison) -> Iterator[tuple[str, Interval]]:
    for what, space in (("roles", found.roles), ("traits", found.traits)):
        if space is not None:
            yield from _space_rows(what, space)
    if found.standings is not None:
        yield "roles' places on the axis, correlation", found.standings
    if found.leanings is not None:
        yield "traits' cosines with the axis, correlation", found.leanings
    if found.role_vectors is not None:
        layer = found.role_vectors.layer
        if found.axes is not None:
            yield f"axes, cosine at layer {layer}", found.axes[layer]
        yield f"role vectors, mean cosine at layer {layer}", found.role_vectors.by_layer[layer]
    if found.trait_vectors is not None:
        layer = found.trait_vectors.layer
        yield f"trait vectors, mean cosine at layer {layer}", found.trait_vectors.by_layer[layer]


def _space_rows(what: str, space: SpaceComparison) -> Iterator[tuple[str, Interval]]:
    for number, one in enumerate(space.components, start=1):
        amount = "" if number == 1 else ", amount"
        yield f"{len(space.names)} {what}, PC{number} loadings, correlation{amount}", one


def _shift_words(shift: DefaultShift) -> Iterator[str]:
    yield (
        f"The default moved by {shift.gaps:+.2f} gaps along the first run's axis at layer "
        f"{shift.layer} (+1 is from the role mean to the default)."
    )
    for what, ranked in (("roles", shift.roles), ("traits", shift.traits)):
        if ranked:
            most = ", ".join(f"{escape(one.name)} {one.share:+.2f}" for one in ranked[:_SHOWN])
            least = ranked[::-1][:_SHOWN]
            away = ", ".join(f"{escape(one.name)} {one.share:+.2f}" for one in least)
            yield f"  {what}: most towards [blue]{most}[/blue]; least [red]{away}[/red]"
