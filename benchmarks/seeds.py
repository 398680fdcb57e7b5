"""What another seed and the other precision change: `python -m benchmarks.seeds FOLDER`.

Computes the demo (`keel demo --anew`) in FOLDER for three seeds in bfloat16 and float32, one after
another; those that are there are kept. Writes docs/results/smollm2-seeds.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.machine import Machine
from keel.store import Run, open_run
from keel.types import LayerQuality, PricedSetting, ReplayTurn

PAGE = Path(__file__).parents[1] / "docs" / "results" / "smollm2-seeds.md"
_SEEDS, _DTYPES = (0, 1, 2), ("bfloat16", "float32")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or that of a demo that failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the runs; those in it are kept")
    folder = parser.parse_args(arguments).folder
    runs = {}
    for seed in _SEEDS:
        for dtype in _DTYPES:
            path = folder / f"s{seed}-{dtype}"
            command = [sys.executable, "-m", "keel", "demo", "--anew", "--seed", str(seed)]
            subprocess.run([*command, "--dtype", dtype, "-o", str(path)], check=True)
            runs[f"{seed}, {dtype}"] = open_run(path)
    PAGE.write_text(page(runs, Machine.here()), encoding="utf-8")
    return 0


def page(runs: dict[str, Run], machine: Machine) -> str:
    """The page: a column for each run, a row for each number."""
    rows: dict[str, Callable[[Run], str]] = {
        "recommended layer": lambda run: str(run.axis.layer),
        "held-out AUC": lambda run: _at_layer(run).auc.text("{:.2f}".format),
        "held-out d′": lambda run: _at_layer(run).d_prime.text("{:.2f}".format),
        "\\|cos(axis, PC1)\\|": lambda run: _at_layer(run).cos_pc1.text("{:.2f}".format),
        "chosen floors": lambda run: run.floors.name,
        "their price, nats a token": lambda run: f"{_chosen(run).kl_default:.3f}",
        "their effect, gaps": lambda run: f"{_chosen(run).shift_gaps:+.2f}",
        "the ghost, uncapped, gaps by turn": lambda run: _turns(
            [turn.uncapped.gaps for turn in _ghost(run)]
        ),
        "the ghost, capped": lambda run: _turns([turn.capped.gaps for turn in _ghost(run)]),
    }
    table = [f"| | {' | '.join(runs)} |", "|---" * (1 + len(runs)) + "|"]
    for name, cell in rows.items():
        table.append(f"| {name} | {' | '.join(cell(run) for run in runs.values())} |")
    higher = sum(
        turn.capped.gaps > turn.uncapped.gaps for run in runs.values() for turn in _ghost(run)
    )
    turns = sum(len(_ghost(run)) for run in runs.values())
    return "\n".join([
        "# `smollm2`: the demo under other seeds, in both precisions",
        "",
        "Made by `python -m benchmarks.seeds FOLDER`; do not edit. "
        f"{machine.cpu}, torch {machine.torch}, transformers {machine.transformers}, "
        f"{machine.date[:10]}, commit `{machine.commit}`. A seed draws roles, questions and every "
        "answer anew; intervals are of 95 %. In gap units 0 is the mean role, 1 the mean default.",
        "",
        *table,
        "",
        f"The capped answer projects higher in {higher} of {turns} turns.",
        "",
    ])  # fmt: skip


def _at_layer(run: Run) -> LayerQuality:
    return run.persona_map.quality[run.axis.layer]


def _chosen(run: Run) -> PricedSetting:
    return next(s for s in run.calibration.settings if s.floors.name == run.floors.name)


def _ghost(run: Run) -> Sequence[ReplayTurn]:
    """The turns of the demo's conversation."""
    (replay,) = run.replays()
    return replay.turns


def _turns(gaps: Sequence[float]) -> str:
    return ", ".join(f"{gap:+.2f}".replace("-", "−") for gap in gaps)


if __name__ == "__main__":
    sys.exit(main())
