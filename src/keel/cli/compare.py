"""keel compare: the spaces of several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from keel.cli import console, results
from keel.cli.options import Given, takes
from keel.settings import CompareSettings

if TYPE_CHECKING:
    from keel.types import RunComparison

EXAMPLES = """
Examples:

    keel compare runs/smollm2 runs/qwen3

    keel compare runs/before runs/after -o shift.html

    keel compare runs/seed0 runs/seed1 runs/seed2 --json
"""


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
    from keel.report import ComparisonInputs, comparison_account
    from keel.store import open_run

    opened = [open_run(path) for path in runs]
    settings = given.over(CompareSettings())
    with console.waiting("comparing"):
        pairs = pipeline.compare(opened, settings)
        page = None if out is None else pipeline.comparison_page(opened, pairs)
    if out is not None and page is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    if json:
        records = [_pair_record(pair) for pair in pairs]
        console.print_json({"runs": runs, "page": out, "pairs": records})
        return
    results.print_account(comparison_account(ComparisonInputs("", (), pairs)))
    if out is not None:
        results.print_next(f"[b]{escape(str(out))}[/b]")


def _pair_record(pair: RunComparison) -> dict[str, Any]:
    """A comparison as plain values, with partners of components counted from 1."""
    partners = {
        what: None if space is None else [index + 1 for index in space.partners]
        for what, space in (("roles", pair.roles), ("traits", pair.traits))
    }
    record: dict[str, Any] = console.plain(pair)
    return {**record, "most_like": partners}
