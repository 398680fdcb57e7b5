"""keel demo: the whole of Keel once, on the embedded model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from keel.cli import console, results
from keel.cli.options import Given, takes
from keel.settings import OpeningSettings

if TYPE_CHECKING:
    from keel.pipeline import Demo

EXAMPLES = """
Examples:

    keel demo

    keel demo -o runs/tour --model HuggingFaceTB/SmolLM2-360M-Instruct
"""


@takes(OpeningSettings())
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="RUN", help="Folder of the run.")] = (
        Path("runs/demo")
    ),
    model: Annotated[str, typer.Option(help="smollm2, a hub id, or a folder.")] = "smollm2",
    seed: console.Seed = 0,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Find an axis, calibrate a floor, and see one conversation uncapped and capped.

    On the embedded model this takes about two and a half minutes on a laptop.
    """
    from keel import pipeline
    from keel.store import RunFolder

    started = time.monotonic()
    folder = RunFolder(out)
    engine = console.open_model(model, given.over(OpeningSettings()))
    again = f"keel demo -o {out} --model {model} --seed {seed}"
    with console.progress() as progress:
        made = pipeline.run_demo(engine, folder, seed=seed, command=again, on_progress=progress)
    _show(made, out, time.monotonic() - started, json)


def _show(made: Demo, out: Path, seconds: float, json: bool) -> None:
    if json:
        parts = {
            "map": results.map_record(made.persona_map),
            "calibration": results.calibration_record(made.calibration),
        }
        console.print_json(
            {"run": out, "report": made.report, "replay": made.replay, "seconds": seconds, **parts}
        )
        return
    results.print_results(
        persona_map=made.persona_map, calibration=made.calibration, replays=(made.replay,)
    )
    page, run = escape(str(made.report)), escape(str(out))
    results.print_next(
        f"[b]The report[/b] with all of this drawn: {page} ({seconds:.0f} s in all)\n"
        "[b]Try next[/b]\n"
        f"  keel chat {run} --capped                    talk to it; /cap off lets it go\n"
        "  keel extract smollm2 -o runs/small --scale small   narrower intervals\n"
        "  keel extract YOUR-MODEL -o runs/mine        any causal model that transformers loads"
    )
