"""keel calibrate: find floors and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from keel.cli import console

if TYPE_CHECKING:
    from keel.types import Calibration

EXAMPLES = """
Examples:

    keel calibrate runs/smollm2

    keel calibrate runs/smollm2 --band 18:23 --percentile 75

    keel calibrate runs/smollm2 --deviations 0 --deviations 1 --price-bound 0.05
"""


def calibrate(
    run: console.Run,
    band: Annotated[
        list[str] | None,
        typer.Option(help="Layers START:STOP capped together; may be repeated."),
    ] = None,
    percentile: Annotated[
        list[float] | None,
        typer.Option(help="Assistant-ward percentile of the floor; may be repeated."),
    ] = None,
    deviations: Annotated[
        list[float] | None,
        typer.Option(help="Floor at the default's mean minus so many SD; may be repeated."),
    ] = None,
    price_bound: Annotated[
        float, typer.Option(help="Highest mean KL per token on default answers, in nats.")
    ] = 0.1,
    answers: Annotated[int, typer.Option(help="Answers of each kind to price on.", min=2)] = 24,
    seed: console.Seed = 0,
    engine_name: console.EngineName = "transformers",
    device: console.Device = "auto",
    dtype: console.Dtype = "auto",
    blocks: console.Blocks = None,
    trust_remote_code: console.RemoteCode = False,
    json: console.Json = False,
) -> None:
    """Find the floor: how high it can lie, how often it fires, and at what price."""
    from keel import pipeline
    from keel.calibrate import Band, CalibrateSettings
    from keel.store import RunFolder, open_run

    opened = open_run(run)
    layers = len(opened.axis.vector)
    defaults = CalibrateSettings()
    settings = CalibrateSettings(
        bands=tuple(Band.parse(text, layers) for text in band or ()),
        percentiles=_percentiles(percentile, deviations, defaults.percentiles),
        deviations=tuple(deviations or ()),
        price_bound=price_bound,
        priced_rollouts=answers,
        seed=seed,
    )
    engine = console.open_model(
        opened.identity.model_id, device, dtype, blocks, trust_remote_code, engine_name
    )
    with console.progress() as progress:
        found = pipeline.calibrate(engine, RunFolder(run), settings, on_progress=progress)
    show_calibration(found, run, json)


def show_calibration(found: Calibration, run: Path, json: bool) -> None:
    """What a calibration found: every setting's price against its effect, and the one chosen."""
    from keel.cli.findings import calibration_summary, calibration_words

    if json:
        console.print_json({"run": run, **calibration_summary(found)})
        return
    console.stdout.print(_table(found))
    for line in calibration_words(found):
        console.stdout.print(line)
    name = escape(str(run))
    console.stdout.print(f"\nNext: [b]keel chat {name} --capped[/b], or [b]keel report {name}[/b]")


def _percentiles(
    given: list[float] | None, deviations: list[float] | None, default: tuple[float, ...]
) -> tuple[float, ...]:
    if given:
        return tuple(given)
    return () if deviations else default


def _table(found: Calibration) -> object:
    """Price and effect of every setting, drawn against each other."""
    from rich.table import Table

    highest = max((s.shift_gaps for s in found.settings), default=0.0)
    table = Table("setting", "fires", "price", "effect", "", box=None, pad_edge=False)
    for setting in sorted(found.settings, key=lambda s: s.kl_default):
        bar = "█" * round(24 * max(0.0, setting.shift_gaps) / highest) if highest > 0 else ""
        is_dear = setting.kl_default > found.price_bound
        style = "bold green" if setting.name == found.chosen else "dim" if is_dear else ""
        table.add_row(
            setting.name,
            f"{setting.firing_rate:.0%}",
            f"{setting.kl_default:.3f}",
            f"{setting.shift_gaps:+.2f}",
            bar + (" ← chosen" if setting.name == found.chosen else " too dear" if is_dear else ""),
            style=style,
        )
    table.caption = (
        "price: mean KL per token on default answers, nats; effect: rise of answers in a role, gaps"
    )
    return table
