"""Names of the files in a run folder. Knows nothing of what stands in them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from keel.store.reading import reading

MANIFEST = "manifest.json"
PLAN = "plan.json"
MAP = "map.json"
VECTORS = "vectors.safetensors"
SPACE = "space.safetensors"
AXIS = "axis.safetensors"
TRAITS = "traits.safetensors"
FLOORS = "floors.safetensors"
CALIBRATION = "calibration.json"
REPORT = "report.html"
ROLLOUTS = "rollouts"
ACTIVATIONS = "activations"
JUDGEMENTS = "judgements"
DRIFT = "drift"
REPLAYS = "replays"

MAP_FILES = (VECTORS, SPACE, AXIS, MAP, TRAITS)
"""Made together, so that traits never lie to an axis that was replaced; a run of roles or of traits
alone has only its own."""
CALIBRATION_FILES = (FLOORS, CALIBRATION)

_SINGLE = (*MAP_FILES, *CALIBRATION_FILES, PLAN, REPORT)
_FOLDERS = {
    ROLLOUTS: ".jsonl",
    ACTIVATIONS: ".safetensors",
    JUDGEMENTS: ".jsonl",
    DRIFT: ".json",
    REPLAYS: ".json",
}
_BATCH = re.compile(r"batch-(\d{5,})")


def rollouts_file(number: int) -> str:
    """Where a batch's rollouts are, inside the run folder."""
    return f"{ROLLOUTS}/batch-{number:05d}.jsonl"


def activations_file(number: int) -> str:
    """Where a batch's activations are, inside the run folder."""
    return f"{ACTIVATIONS}/batch-{number:05d}.safetensors"


def named_file(folder: str, name: str) -> str:
    """Where a thing with a free name is kept: the name itself where a file may be called so."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80]
    if plain != name:
        plain = (
            f"{plain}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}".lstrip(
                "-"
            )
        )
    return f"{folder}/{plain}{_FOLDERS[folder]}"


def committed_batches(root: Path) -> list[int]:
    """Numbers of the batches whose rollouts are there, in order."""
    found = (_BATCH.fullmatch(path.stem) for path in files_in(root, ROLLOUTS))
    return sorted(int(match[1]) for match in found if match)


def files_in(root: Path, folder: str) -> list[Path]:
    """Finished files of one of the run's folders, sorted; none where there is no such folder."""
    suffix = _FOLDERS[folder]
    with reading(root / folder, "a folder"):
        # Not glob: it takes a folder that may not be read for an empty one.
        names = [path.name for path in (root / folder).iterdir()] if _is_there(root, folder) else []
    return sorted(root / folder / n for n in names if n.endswith(suffix) and n[0] != ".")


def artefacts(root: Path) -> list[str]:
    """Every file of a run, inside its folder, but for the manifest."""
    single = [name for name in _SINGLE if (root / name).exists()]
    listed = [path for folder in _FOLDERS for path in files_in(root, folder)]
    return [*single, *(path.relative_to(root).as_posix() for path in listed)]


def _is_there(root: Path, folder: str) -> bool:
    return (root / folder).is_dir()
