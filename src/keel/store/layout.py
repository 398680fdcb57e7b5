"""Names of the files in a run folder. Knows nothing of what stands in them."""

from __future__ import annotations

import re
from pathlib import Path

from keel.seeds import text_hash
from keel.store.files import reading

BORROWED = "borrowed"
"""Kind of a run that was made of an axis from elsewhere, and has no answers."""
MANIFEST = "manifest.json"
PLAN = "plan.json"
MAP = "map.json"
VECTORS = "vectors.safetensors"
SPACE = "space.safetensors"
AXIS = "axis.safetensors"
DEFAULTS = "defaults.safetensors"
AXIS_FOLDS = "axis-folds.safetensors"
TRAITS = "traits.safetensors"
FLOORS = "floors.safetensors"
CALIBRATION = "calibration.json"
ALARM = "alarm.json"
ALARM_WORK = "alarm"
"""What calibrating an alarm goes on with after an interruption; no part of the run."""
REPORT = "report.html"
UNTRAINED = "untrained.json"
UNTRAINED_WORK = "untrained"
"""Runs of random models that are under way; no part of the run."""
SWEEP = "sweep.json"
SWEEP_WORK = "sweep"
"""What a sweep goes on with after an interruption; no part of the run."""
ROLLOUTS = "rollouts"
ACTIVATIONS = "activations"
JUDGEMENTS = "judgements"
DRIFT = "drift"
REPLAYS = "replays"
REPLAY_WORK = "replaying"
"""What a replay goes on with after an interruption; no part of the run."""
CASES = "cases"
"""Pages of single replays."""
EVALUATIONS = "evaluations"
STUDIES = "studies"
RESULT = "result.json"
"""Of an evaluation or a study, in a folder of its own."""

MAP_FILES = (VECTORS, SPACE, AXIS, AXIS_FOLDS, MAP, DEFAULTS, TRAITS)
"""Made together, so that traits are never measured against an axis that was replaced; a run of
roles or of traits alone has only its own."""
CALIBRATION_FILES = (FLOORS, CALIBRATION)
FLOORS_NAMES = (FLOORS, "capping_config.pt")
"""Files of floors, ours and the reference's, in the order in which they are looked for."""

_SINGLE = (*MAP_FILES, *CALIBRATION_FILES, ALARM, UNTRAINED, SWEEP, PLAN, REPORT)
_SUFFIXES = {
    ROLLOUTS: ".jsonl",
    ACTIVATIONS: ".safetensors",
    JUDGEMENTS: ".jsonl",
    DRIFT: ".json",
    REPLAYS: ".json",
    CASES: ".html",
}


def named_file(folder: str, name: str) -> str:
    """Where a judge's judgements or a conversation's reading are, inside the run folder."""
    return f"{folder}/{plain_name(name)}{_SUFFIXES[folder]}"


def plain_name(name: str) -> str:
    """The name itself where a file may be called so, else one like it with a hash behind."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80]
    if plain == name:
        return name
    digest = text_hash(name, 8)
    return f"{plain}-{digest}".lstrip("-")


def files_ending(folder: Path, suffix: str) -> list[Path]:
    """Finished files of a folder, sorted; none where there is no such folder."""
    with reading(folder, "a folder"):
        # Not glob: it takes a folder that may not be read for an empty one.
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(folder / n for n in names if n.endswith(suffix) and n[0] != ".")


def artefacts(root: Path) -> list[str]:
    """Every file of a run, inside its folder, but for the manifest."""
    single = [name for name in _SINGLE if (root / name).exists()]
    listed = [
        p for folder, suffix in _SUFFIXES.items() for p in files_ending(root / folder, suffix)
    ]
    known = [path.relative_to(root).as_posix() for path in listed]
    return [*single, *known, *files_below(root, EVALUATIONS), *files_below(root, STUDIES)]


def files_below(root: Path, folder: str) -> list[str]:
    """Every finished file of one of the run's folders and those in it, inside the run folder."""
    files = (path for path in (root / folder).rglob("*") if path.is_file())
    return sorted(p.relative_to(root).as_posix() for p in files if p.name[0] != ".")
