"""keel axes: axes that were published for large models; and --axis, which takes one for a model."""

from __future__ import annotations

from pathlib import Path

from keel.cli import console
from keel.cli.options import Given
from keel.settings import AxisSource, OpeningSettings

EXAMPLES = """
Examples:

    keel axes

    keel chat Qwen/Qwen3-32B --axis qwen-3-32b --capped
"""


def axes(json: console.Json = False) -> None:
    """List the axes and floors that were published for models, and how to use them.

    They are on a model hub; `--axis` of `keel chat`, `keel drift`, `keel ui` and `keel serve` takes
    them by name. It takes any other hub id, folder or file of an axis as well.
    """
    from keel.store import PUBLISHED

    if json:
        console.print_json(PUBLISHED)
        return
    for each in PUBLISHED:
        name = each.source.rpartition("/")[2]
        shape = f"{each.layers} layers × {each.hidden_size}"
        lines = (
            name,
            f"  for {each.model} ({shape}), read at layer {each.layer}",
            f"  {f'floors: {each.setting} and others' if each.setting else 'no floors'}",
            f"  from {each.source} (Lu et al. 2026, arXiv:2601.10387)",
            f"  keel chat {each.model} --axis {name}",
        )
        console.stdout.print("\n".join(lines), markup=False, soft_wrap=True)


def run_of(run: Path, given: Given, setting: str | None = None) -> Path:
    """The run's folder; with `--axis`, that of a run made for the model named, with that axis.

    Says on stderr what was taken. Raises UsageError for floors without an axis.
    """
    from keel.errors import UsageError

    source = given.over(AxisSource())
    if source.axis is None:
        if others := [name for name in given.names(source) if name != "--axis"]:
            raise UsageError(
                f"{', '.join(others)} belongs to an axis from elsewhere; add --axis, or leave it "
                "out"
            )
        return run
    from keel import pipeline
    from keel.store import open_run, published_axis

    load = given.over(OpeningSettings()).load
    with console.waiting(f"fetching the axis {source.axis}"):
        folder = pipeline.borrow_run(str(run), source, setting=setting, load=load)
    opened, known = open_run(folder), published_axis(source.axis)
    floors = f"floors {opened.floors.name}" if opened.has_floors else "no floors"
    notes = [f"{run} with the axis {source.axis}, {floors}; kept in {folder}"]
    if known is not None and known.model != str(run):
        notes.append(
            f"that axis was made on {known.model}; {run} has its shape, and whether it has its "
            "weights is not known"
        )
    console.stderr.print("\n".join(notes), markup=False, soft_wrap=True)
    return folder
