"""keel demo: the whole of Keel once, on the embedded model: as recorded, or computed here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from keel.cli import console, results
from keel.cli.options import Given, takes
from keel.errors import UsageError
from keel.settings import OpeningSettings

if TYPE_CHECKING:
    from keel.pipeline import Demo

EXAMPLES = """
Examples:

    keel demo

    keel demo --anew

    keel demo --anew -o runs/tour --model HuggingFaceTB/SmolLM2-360M-Instruct
"""


@takes(OpeningSettings())
def demo(
    anew: Annotated[
        bool, typer.Option("--anew", help="Compute it here rather than show the recorded run.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="RUN", help="runs/demo, or runs/demo-anew where computed here."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="smollm2, a hub id, or a folder.")] = "smollm2",
    seed: console.Seed = 0,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """See an axis, its floors, and one conversation uncapped and capped.

    Shows a run of the embedded model that ships with Keel, in seconds. `--anew` computes one: some
    minutes on a laptop, and nothing that is there is computed again.
    """
    from keel import pipeline
    from keel.store import RunFolder

    started = time.monotonic()
    if not anew:
        chosen = given.over(OpeningSettings())
        if model != pipeline.RECORDED_MODEL or seed or chosen != OpeningSettings():
            raise UsageError(
                f"the recorded run is of {pipeline.RECORDED_MODEL} with seed 0 as it opens by "
                "itself, and other options are given; compute one: add --anew"
            )
        out = out or Path("runs/demo")
        with console.waiting("opening the recorded run"):
            made = pipeline.show_demo(out)
        _show(made, out, time.monotonic() - started, json)
        return
    out = out or Path("runs/demo-anew")
    folder = RunFolder(out)
    folder.check_free()
    engine = console.open_model(model, given.over(OpeningSettings()))
    again = f"keel demo --anew -o {out} --model {model} --seed {seed}"
    with console.progress() as progress:
        made = pipeline.run_demo(engine, folder, seed=seed, command=again, on_progress=progress)
    _show(made, out, time.monotonic() - started, json)


def _show(made: Demo, out: Path, seconds: float, json: bool) -> None:
    if json:
        parts: dict[str, Any] = {
            "recording": made.recording,
            "map": results.map_record(made.persona_map),
            "calibration": results.calibration_record(made.calibration),
        }
        console.print_json(
            {"run": out, "report": made.report, "replay": made.replay, "seconds": seconds, **parts}
        )
        return
    if made.recording:
        console.stdout.print(f"[yellow]{escape(made.recording)}[/yellow]\n", soft_wrap=True)
    results.print_results(
        persona_map=made.persona_map, calibration=made.calibration, replays=(made.replay,)
    )
    anew = "  keel demo --anew                          compute all this here\n"
    anew = anew if made.recording else ""
    page, run = escape(str(made.report)), escape(str(out))
    results.print_next(
        f"[b]The report[/b] with all of this drawn: {page} ({seconds:.0f} s in all)\n"
        "[b]Try next[/b]\n"
        f"{anew}"
        f"  keel chat {run} --capped                    talk to it; /cap off lets it go\n"
        "  keel extract smollm2 -o runs/small --scale small   narrower intervals\n"
        "  keel extract YOUR-MODEL -o runs/mine        any causal model that transformers loads"
    )
