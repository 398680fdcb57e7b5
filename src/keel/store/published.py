"""Axes that were published for large models, and runs made of an axis from elsewhere.

A borrowed run holds an axis and, where there are any, floors: no answers and no map. What reads
conversations or caps takes it like any other run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keel.errors import MissingArtifactError, UsageError
from keel.settings import Orientation
from keel.store import layout
from keel.store.artefacts import save_axis
from keel.store.files import read_pickled_tensors, sha256_of
from keel.store.floors import check_setting, save_floors
from keel.store.folder import RunFolder
from keel.store.foreign import check_along
from keel.store.foreign_axes import PUBLISHED, PublishedAxis
from keel.store.load import AXIS_NAMES, is_hub_id, load_axis, load_floors, load_settings, locate
from keel.store.provenance import RunPlan
from keel.types import AssistantAxis, Floors, ModelIdentity

_DEFAULT_VECTOR = "default_vector.pt"


@dataclass(frozen=True)
class Borrowed:
    """An axis from elsewhere for a model, with the floors that belong to it."""

    axis: AssistantAxis
    settings: Mapping[str, Floors]
    default: str
    """Setting that is meant where none is named; empty without floors."""
    facts: dict[str, Any]
    """Where it was taken from, with hashes."""


def published_axis(source: str) -> PublishedAxis | None:
    """The published axis of that hub id, or whose id ends so; None for any other."""
    return next((p for p in PUBLISHED if source in (p.source, p.source.rpartition("/")[2])), None)


def borrow(
    source: str,
    identity: ModelIdentity,
    *,
    floors: str | None = None,
    setting: str | None = None,
    orientation: Orientation | None = None,
) -> Borrowed:
    """The axis of a file, folder or hub id, with the floors given or those that lie beside it.

    Raises ModelMismatchError for another shape than the model's, and UsageError where floors and
    axis point apart, where neither says its sign, or where no setting of several is named.
    """
    known = published_axis(source)
    source = source if known is None else known.source
    path = locate(source, AXIS_NAMES)
    axis = load_axis(path, identity=identity, orientation=orientation)
    default_path = _beside(source, path, (_DEFAULT_VECTOR,))
    if default_path is not None and axis.provenance.get("gap") == "unknown":
        # The axis is the default's mean less the roles', so that it tells the roles' from it.
        default_LD = read_pickled_tensors(default_path).float()
        axis = load_axis(
            path,
            identity=identity,
            orientation=orientation,
            default_LD=default_LD,
            role_mean_LD=default_LD - axis.vector,
        )
    floors_path = locate(floors, layout.FLOORS_NAMES) if floors is not None else None
    if floors_path is None and (known is None or known.setting):
        floors_path = _beside(source, path, layout.FLOORS_NAMES)
    settings = {} if floors_path is None else load_settings(floors_path)
    for band in settings.values():
        check_along(band, axis)
    files = [file for file in (path, default_path, floors_path) if file and file.is_file()]
    facts = {
        "axis": source,
        "floors": floors or "beside it",
        "orientation": orientation or "as the file says",
        "hashes": {file.name: sha256_of(file) for file in files},
    }
    usual = "" if known is None else known.setting
    if not usual and floors_path is not None and floors_path.suffix != ".pt":
        usual = load_floors(floors_path).name  # Keel's own files say which was chosen
    return Borrowed(axis, settings, _default_of(settings, setting or usual), facts)


def keep_borrowed(borrowed: Borrowed, folder: str | Path, model: str) -> Path:
    """Write a run folder with a borrowed axis, for a model, unless it is there already."""
    run = RunFolder(folder)
    if (run.path / layout.MANIFEST).exists():
        return run.path
    identity = replace(borrowed.axis.identity, model_id=model)
    with run.lock():
        run.begin(RunPlan(identity, borrowed.facts, seed=0, batches=()), [])
        save_axis(replace(borrowed.axis, identity=identity), run.path / layout.AXIS)
        if borrowed.settings:
            bands = [
                replace(band, identity=band.identity or identity)
                for band in borrowed.settings.values()
            ]
            save_floors(
                bands,
                run.path / layout.FLOORS,
                default=borrowed.default,
                axis_sha256=sha256_of(run.path / layout.AXIS),
            )
        run.finish(counts={}, kind=layout.BORROWED)
    return run.path


def _beside(source: str, path: Path, names: Sequence[str]) -> Path | None:
    """A file of one of these names beside another, or in the same folder of the hub."""
    here = path if path.is_dir() else path.parent
    if (near := next((here / name for name in names if (here / name).is_file()), None)) is not None:
        return near
    if Path(source).expanduser().exists() or not is_hub_id(source):
        return None
    folder = source.rpartition("/")[0] if Path(source).suffix else source
    try:
        return locate(folder, names)
    except MissingArtifactError:
        return None


def _default_of(settings: Mapping[str, Floors], wanted: str) -> str:
    if not settings:
        return ""
    if not wanted and len(settings) > 1:
        raise UsageError(
            f"the floors have {len(settings)} settings ({', '.join([*settings][:3])}, …); name the "
            "one that caps: --setting NAME"
        )
    name = wanted or next(iter(settings))
    check_setting(name, settings)
    return name
