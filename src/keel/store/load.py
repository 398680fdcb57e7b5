"""Loads axes and floors from our files, run folders, the reference's files, and the model hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from jaxtyping import Float

from keel.alarm import Alarm
from keel.arrays import Tensor
from keel.errors import MissingArtifactError, ModelMismatchError, UsageError
from keel.settings import Orientation
from keel.store import layout
from keel.store.alarms import read_alarm
from keel.store.artefacts import read_axis
from keel.store.floors import FloorsFile, read_floors
from keel.store.foreign import (
    check_along,
    check_sign,
    read_capping_config,
    read_capping_configs,
)
from keel.store.foreign_axes import FirstRow, read_foreign_axis
from keel.store.run import open_run
from keel.types import AssistantAxis, Floors, ModelIdentity
from keel.words import first_line

AXIS_NAMES = ("axis.safetensors", "assistant_axis.pt", "axis.pt")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(/[\w.+-]+)*")
_KINDS = ("model", "dataset")
_FOREIGN = (".pt", ".pth", ".gguf", ".npy", ".npz")
_SUFFIXES = (*_FOREIGN, ".safetensors")


def load_axis(
    source: str | Path,
    *,
    identity: ModelIdentity | None = None,
    layer: int | None = None,
    orientation: Orientation | None = None,
    first_row: FirstRow | None = None,
    reference: AssistantAxis | None = None,
    default_LD: Float[Tensor, "layer hidden"] | None = None,
    role_mean_LD: Float[Tensor, "layer hidden"] | None = None,
) -> AssistantAxis:
    """An axis from a `.safetensors` of ours, a run folder, another program's file, or a hub id.

    `identity` is the model that the axis is for: another one's is refused with
    ModelMismatchError. `layer` replaces the recommended layer. Other programs' files (`.pt`,
    `.npy`, `.npz`, `.gguf`) do not say their sign: `orientation` does (an axis in a `.pt` is
    assistant-ward unless the file is called contrast), and it is held against a trusted axis
    (`reference`) or against the two means, which also tell the gap. `first_row` says whether a
    tensor begins with the embedding, as `hidden_states` do, where the model does not tell it.
    """
    path = locate(source, AXIS_NAMES)
    axis = _read_axis(path, identity, orientation, first_row)
    _check_identity(axis.identity, identity, path)
    if reference is not None:
        check_sign(axis, reference.vector, "the axis given as reference")
    if default_LD is not None and role_mean_LD is not None:
        check_sign(axis, default_LD.float() - role_mean_LD.float(), "default minus role mean")
        axis = replace(
            axis,
            default_projection=(default_LD.float() * axis.direction).sum(-1),
            role_projection=(role_mean_LD.float() * axis.direction).sum(-1),
            provenance={**axis.provenance, "gap": "from the means given when it was read"},
        )
    return axis if layer is None else replace(axis, layer=layer)


def load_alarm(source: str | Path, *, identity: ModelIdentity | None = None) -> Alarm:
    """The alarm for drift of a run folder, or of an `alarm.json`.

    With `identity`, one of another model is refused. Raises MissingArtifactError where there is
    none, StaleArtifactError where the run's axis was replaced since.
    """
    path = locate(source, (layout.ALARM,))
    alarm = open_run(path).alarm if path.is_dir() else read_alarm(path)[0]
    if identity is not None:
        alarm.check_model(identity)
    return alarm


def load_floors(
    source: str | Path,
    *,
    setting: str | None = None,
    axis: AssistantAxis | None = None,
    identity: ModelIdentity | None = None,
) -> Floors:
    """A band of floors from a file of ours, a run folder, a `capping_config.pt`, or a hub id.

    Without `setting` the default one, or the only one. With `axis`, floors on directions other
    than its own are refused; with `identity`, those of another model. An unknown setting raises
    UsageError with names like it.
    """
    path = locate(source, layout.FLOORS_NAMES)
    if path.suffix == ".pt":
        floors = read_capping_config(path, setting=setting, identity=identity)
    else:
        floors = _floors_file(path).named(setting)
    if identity is not None:
        if floors.identity is not None:
            _check_identity(floors.identity, identity, path)
        for floor in floors:
            if floor.layer >= identity.layers or len(floor.direction) != identity.hidden_size:
                raise ModelMismatchError(
                    f"{path} has a floor at layer {floor.layer} of size {len(floor.direction)}, "
                    f"{identity.model_id} has {identity.layers} layers of size "
                    f"{identity.hidden_size}; use the floors of this model"
                )
    if axis is not None:
        check_along(floors, axis)
    return floors


def load_settings(source: str | Path) -> dict[str, Floors]:
    """All bands of a file of ours, of a run folder or of a `capping_config.pt`, by name.

    Raises as `load_floors`.
    """
    path = locate(source, layout.FLOORS_NAMES)
    if path.suffix == ".pt":
        return read_capping_configs(path)
    return {floors.name: floors for floors in _floors_file(path).settings}


def locate(source: str | Path, names: Sequence[str]) -> Path:
    """A local file or run folder as it is, or the first of `names` in a folder that is no run.

    Where nothing is there, the first of `names` that a hub id has.
    A hub id is `org/name`, or `org/name/folder`, or `org/name/path/to/file.pt`, of a model or a
    data set. Raises MissingArtifactError when there is neither.
    """
    path = Path(source).expanduser()
    if path.is_dir() and not (path / layout.MANIFEST).exists():
        return next((path / name for name in names if (path / name).is_file()), path)
    if path.exists():
        return path
    if not is_hub_id(str(source)):
        raise MissingArtifactError(
            f"{path} is not there; point at a file, a run folder, or a hub id such as org/name"
        )
    return _download(str(source), names)


def is_hub_id(source: str) -> bool:
    """Whether a text could name a repository of the hub, or a path in one."""
    is_local_file = source.count("/") == 1 and source.endswith(_SUFFIXES)
    return bool(_HUB_ID.fullmatch(source)) and source[0] != "." and not is_local_file


def _read_axis(
    path: Path,
    identity: ModelIdentity | None,
    orientation: Orientation | None,
    first_row: FirstRow | None,
) -> AssistantAxis:
    if orientation not in (None, "assistant-ward", "role-ward"):
        raise UsageError(
            f'orientation is {orientation!r}, expected "assistant-ward" or "role-ward"'
        )
    if path.suffix in _FOREIGN:
        axis = read_foreign_axis(
            path, orientation=orientation, first_row=first_row, identity=identity
        )
        if identity is None:
            return axis
        _check_identity(axis.identity, identity, path)
        facts = {**axis.provenance, "identity": "given when it was read"}
        return replace(axis, identity=identity, provenance=facts)
    if path.is_file() and not _may_be_safetensors(path):
        raise UsageError(
            f"{path} is no file of vectors, expected {', '.join(_SUFFIXES)}, a run folder or a hub "
            "id; point at one of these"
        )
    if orientation == "role-ward":
        raise UsageError(f"{path} says its sign itself, assistant-ward; leave out orientation")
    return open_run(path).axis if path.is_dir() else read_axis(path)


def _floors_file(path: Path) -> FloorsFile:
    if path.is_file() and not _may_be_safetensors(path):
        raise UsageError(
            f"{path} is no file of floors, expected .safetensors, a capping_config.pt, a run "
            "folder or a hub id; point at one of these"
        )
    return open_run(path).floors_file if path.is_dir() else read_floors(path)


def _may_be_safetensors(path: Path) -> bool:
    """Whether a file is named as safetensors files are, or begins as they do."""
    if path.suffix == ".safetensors":  # a damaged one is read, and said to be damaged
        return True
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _check_identity(actual: ModelIdentity, wanted: ModelIdentity | None, path: Path) -> None:
    mismatch = actual.mismatch(wanted) if wanted is not None else None
    if mismatch:
        raise ModelMismatchError(
            f"{path} was made on another model: {mismatch}; use the model it was made on, "
            "or make one for this model: keel extract"
        )


def _download(source: str, names: Sequence[str]) -> Path:
    from huggingface_hub import try_to_load_from_cache

    owner, name, *inside = source.split("/")
    repository = f"{owner}/{name}"
    candidates = ["/".join([*inside, file]) for file in names]
    if source.endswith(_SUFFIXES) and inside:
        candidates = ["/".join(inside)]
    try:
        path = _first_on_hub(repository, candidates)
    except Exception as error:  # its HTTP library's own, which differ from release to release
        # What was downloaded before, for when there is no network.
        cached = (
            try_to_load_from_cache(repository, name, repo_type=kind)
            for kind, name in product(_KINDS, candidates)
        )
        path = next((Path(path) for path in cached if isinstance(path, str)), None)
        if path is None:
            raise MissingArtifactError(
                f"{source} is no local path, and could not be fetched from the hub: "
                f"{first_line(error)}; check the path and the network, or download the file and "
                "point at it"
            ) from error
    if path is None:
        raise MissingArtifactError(
            f"{source} is no local path, and on the hub there is no such repository with "
            f"{' or '.join(candidates)}; check the name, and log in if it is private"
        )
    return path


def _first_on_hub(repository: str, candidates: Sequence[str]) -> Path | None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    for kind, name in product(_KINDS, candidates):
        try:
            # Asked first, for it fails at once without a network; a download tries for 20 s.
            get_hf_file_metadata(hf_hub_url(repository, name, repo_type=kind))
        except (EntryNotFoundError, RepositoryNotFoundError):
            continue
        return Path(hf_hub_download(repository, name, repo_type=kind))
    return None
