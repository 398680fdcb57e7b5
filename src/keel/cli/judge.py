"""keel judge: score the rollouts of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keel.cli import console
from keel.cli.extract import show_map

if TYPE_CHECKING:
    from keel.judge import JudgementSummary
    from keel.pipeline import Extraction

EXAMPLES = """
Examples:

    keel judge runs/smollm2

    keel judge runs/smollm2 --threshold 0.1 --remap
"""


def judge(
    run: console.Run,
    threshold: Annotated[
        float, typer.Option(help="Nats per token an answer must gain from its role prompt.")
    ] = 0.05,
    remap: Annotated[
        bool, typer.Option("--remap", help="Map again, of the answers that play their role.")
    ] = False,
    min_count: Annotated[int, typer.Option(help="Answers a role needs.", min=1)] = 3,
    engine_name: console.EngineName = "transformers",
    device: console.Device = "auto",
    dtype: console.Dtype = "auto",
    blocks: console.Blocks = None,
    trust_remote_code: console.RemoteCode = False,
    json: console.Json = False,
) -> None:
    """Score how far each answer plays its role, by its likelihood with and without the role."""
    from keel import pipeline
    from keel.judge import LikelihoodJudge
    from keel.personas import MapSettings
    from keel.store import RunFolder, open_run

    opened = open_run(run)
    engine = console.open_model(
        opened.identity.model_id, device, dtype, blocks, trust_remote_code, engine_name
    )
    if opened.has_map:
        pipeline.check_same_model(engine, opened.axis)
    mapping = MapSettings(min_count=min_count, label="playing") if remap else None
    with console.progress() as progress:
        summary, found = pipeline.judge(
            RunFolder(run),
            LikelihoodJudge(engine, threshold),
            mapping=mapping,
            on_progress=progress,
        )
    if json:
        _print_json(summary, found, run)
        return
    counts = ", ".join(f"{count} {label}" for label, count in summary.labels.items())
    console.stdout.print(f"[b]Labels[/b]: {counts}")
    deciles = " ".join(f"{score:+.2f}" for score in summary.deciles)
    console.stdout.print(f"Nats per token gained from the role prompt, by decile: {deciles}")
    if found is not None:
        show_map(found, run, json)


def _print_json(summary: JudgementSummary, found: Extraction | None, run: Path) -> None:
    from keel.cli.findings import found_summary

    mapped = {} if found is None else {"map": found_summary(found)}
    console.print_json({"run": run, **console.plain(summary), **mapped})
