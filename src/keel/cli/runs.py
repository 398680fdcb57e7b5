"""keel ls and keel info: which runs are there, and what stands in one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keel.cli import console
from keel.words import fixed, signed

if TYPE_CHECKING:
    from keel.store import Run

LS_EXAMPLES = """
Examples:

    keel ls

    keel ls /data/runs --json
"""

INFO_EXAMPLES = """
Examples:

    keel info runs/demo

    keel info runs/demo --json
"""

_NAME_COLUMNS = 13
_WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def ls(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="Where runs lie, at most two folders down; else runs/ where there is one, or "
            "here.",
            show_default=False,
        ),
    ] = None,
    json: console.Json = False,
) -> None:
    """List the runs in a folder: model, date, scale, axis, chosen floors, what is missing."""
    from keel.store import find_runs

    where = folder or (Path("runs") if Path("runs").is_dir() else Path())
    records = [_row(path) for path in find_runs(where)]
    if json:
        console.print_json(records)
        return
    if not records:
        console.stderr.print(
            f"no runs in {where}; make one: keel demo, or keel extract MODEL -o runs/NAME",
            markup=False,
            soft_wrap=True,
        )
        return
    for record in records:
        _print_row(record)


def info(run: console.Run, json: console.Json = False) -> None:
    """Show what a run holds on one screen: model, counts, axis, floors, results, and what next."""
    from keel.store import open_run

    record = _record(open_run(run, "np"))
    if json:
        console.print_json(record)
        return
    for name, text in _lines(record):
        # A command is to be copied: it stays one line, whatever the terminal's width.
        columns = len(text) if name == "next" else console.stdout.width - _NAME_COLUMNS
        for row in textwrap.wrap(text, max(columns, 20), **_WHOLE_WORDS) or [""]:
            console.stdout.print(f"{name:<{_NAME_COLUMNS}}{row}", markup=False, soft_wrap=True)
            name = ""


def _row(path: Path) -> dict[str, Any]:
    """One run of a list; of an unfinished or damaged one, why there is no more to say."""
    from keel.errors import KeelError
    from keel.store import open_run

    try:
        record = _record(open_run(path, "np"))
    except KeelError as error:
        return {"run": path, "problem": str(error), "size_bytes": _size_bytes(path)}
    kept = ("run", "model", "created", "scale", "axis", "floors", "missing", "size_bytes")
    return {name: record[name] for name in kept}


def _record(run: Run) -> dict[str, Any]:
    """Everything that `keel info` shows, as plain values; nothing is loaded that is large."""
    manifest = run.manifest
    evaluations = {name: result.measure for name, result in run.evaluations().items()}
    replays = [
        {
            "conversation": each.conversation_id,
            "setting": each.setting,
            "turns": len(each.turns),
            "uncapped_gaps": _mean([turn.uncapped.gaps for turn in each.turns]),
            "capped_gaps": _mean([turn.capped.gaps for turn in each.turns]),
        }
        for each in run.replays()
    ]
    return {
        "run": run.path,
        "model": run.identity.model_id,
        "identity": run.identity,
        "created": manifest.created,
        "keel_version": manifest.keel_version,
        "scale": _scale(manifest.settings),
        "seed": manifest.seed,
        "counts": manifest.counts,
        "activations": manifest.activations,
        "axis": _axis(run),
        "floors": _floors(run),
        "is_swept": run.has_sweep,
        "conversations_read": len(run.drift_readings()),
        "replays": replays,
        "evaluations": evaluations,
        "has_alarm": run.has_alarm,
        "studies": list(run.studies()),
        "missing": [what for what, _ in _missing(run, evaluations)],
        "next": [command for _, command in _missing(run, evaluations)],
        "size_bytes": _size_bytes(run.path),
    }


def _axis(run: Run) -> dict[str, Any] | None:
    from keel.report import UNTRAINED_AUC

    if not run.has_axis:
        return None
    axis = run.axis
    known = {"layer": axis.layer, "gap": float(axis.gap[axis.layer])}
    if not run.has_map:
        return {**known, "auc": None, "auc_untrained": None, "d_prime": None}
    quality, null = run.quality[axis.layer], run.untrained
    return {
        **known,
        "auc": quality.auc,
        "auc_untrained": UNTRAINED_AUC if null is None else null.auc_range,
        "d_prime": quality.d_prime,
    }


def _floors(run: Run) -> dict[str, Any] | None:
    if not run.has_floors:
        return None
    if not run.has_calibration:  # floors from elsewhere have no price
        return {"chosen": run.floors.name, "settings": len(run.settings)}
    chosen = next(s for s in run.calibration.settings if s.name == run.calibration.chosen)
    return {
        "chosen": chosen.name,
        "settings": len(run.settings),
        "price": chosen.price,
        "effect": chosen.shift_gaps,
        "firing_rate": chosen.firing_rate,
    }


def _missing(run: Run, evaluations: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What a run could have and has not, with the command that makes it."""
    if not run.has_axis:
        yield "axis", f"keel extract {run.identity.model_id} -o ANOTHER_RUN"
        return
    if not run.has_floors:
        yield "floors", run.floors_remedy.rpartition(": ")[2]
        return
    if not run.replays():
        yield "replays", f"keel drift {run.path} TALK.json --replay"
    if not run.has_map:
        return  # the others need answers
    if not evaluations:
        yield "evaluations", f"keel evaluate {run.path} jailbreak"
    if not run.has_alarm:
        yield "alarm", f"keel drift calibrate {run.path} --chats LOGS"


def _scale(settings: dict[str, Any]) -> str:
    """The scale whose numbers a run has, or its own numbers."""
    from keel.cli.extract import SCALES

    prompts, sampling = settings.get("prompts"), settings.get("sampling")
    if prompts is None or sampling is None:
        return "no answers" if "axis" in settings else "its own prompts"
    tokens = sampling["max_new_tokens"]
    for scale, own in SCALES.items():
        numbers = (own.prompts.roles, own.prompts.questions, own.sampling.max_new_tokens)
        if numbers == (prompts["roles"], prompts["questions"], tokens):
            return str(scale)
    sizes = (prompts["roles"] or "all", prompts["questions"] or "all", tokens)
    return "{} roles × {} questions, {} tokens".format(*sizes)


def _auc(axis: dict[str, Any]) -> str:
    """The AUC with interval and null, behind a comma; nothing of an axis from elsewhere."""
    if axis["auc"] is None:
        return ""
    low, high = axis["auc_untrained"]
    return f", AUC {axis['auc'].text()}, untrained {fixed(low)} to {fixed(high)}"


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _print_row(record: dict[str, Any]) -> None:
    """Two lines a run: they fit 80 columns."""
    size = f"{record['size_bytes'] / 1e6:.1f} MB"
    if "problem" in record:
        first, second = f"{record['run']}  {size}", str(record["problem"])
    else:
        axis, floors = record["axis"], record["floors"]
        first = (
            f"{record['run']}  {record['model']}  {record['created'][:10]}  {record['scale']}  "
            f"{size}"
        )
        second = "no axis" if axis is None else f"axis at layer {axis['layer']}"
        second += "" if floors is None else f", floors {floors['chosen']}"
        if record["missing"]:
            second += f"; missing: {', '.join(record['missing'])}"
    console.stdout.print(first, style="bold", markup=False, soft_wrap=True)
    for row in textwrap.wrap(second, max(console.stdout.width - 2, 20), **_WHOLE_WORDS):
        console.stdout.print(f"  {row}", markup=False, soft_wrap=True)


def _lines(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    identity, axis, floors = record["identity"], record["axis"], record["floors"]
    yield "run", f"{record['run']}  {record['size_bytes'] / 1e6:.1f} MB"
    yield (
        "model",
        f"{identity.model_id}{'@' + identity.revision if identity.revision else ''}, "
        f"{identity.layers} layers × {identity.hidden_size}, {identity.dtype}, weights "
        f"{identity.weights_hash[:12] or 'unknown'}",
    )
    yield "made", f"{record['created'][:16].replace('T', ' ')} UTC, Keel {record['keel_version']}"
    yield "scale", f"{record['scale']}; seed {record['seed']}"
    yield "counts", ", ".join(f"{count:,} {name}" for name, count in record["counts"].items())
    yield "activations", f"{record['activations']} kept"
    yield (
        "axis",
        "none" if axis is None else f"layer {axis['layer']}, gap {axis['gap']:.3g}{_auc(axis)}",
    )
    yield (
        "floors",
        "none"
        if floors is None
        else f"{floors['chosen']}, chosen of {floors['settings']}"
        f"{', swept' if record['is_swept'] else ''}",
    )
    yield "drift", f"{record['conversations_read']} conversations read"
    for each in record["replays"]:
        before, after = each["uncapped_gaps"], each["capped_gaps"]
        means = (
            "" if before is None else f": {signed(before)} gaps uncapped, {signed(after)} capped"
        )
        yield "replay", f"{each['conversation']}, {each['turns']} turns, {each['setting']}{means}"
    yield "evaluations", ", ".join(record["evaluations"]) or "none"
    yield "alarm", "fitted" if record["has_alarm"] else "none"
    yield "studies", ", ".join(record["studies"]) or "none"
    for command in [*record["next"], f"keel report {record['run']}"]:
        yield "next", command
