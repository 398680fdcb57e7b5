"""Axes and floors from wherever they are: our files, run folders, the reference's, the hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from keel.errors import ModelMismatchError, UsageError
from keel.store.artefacts import read_axis
from keel.store.floors_file import read_floors
from keel.store.hub import locate
from keel.store.reference import (
    Orientation,
    check_along,
    check_sign,
    read_capping_config,
    read_reference_axis,
)
from keel.store.run import open_run
from keel.types import AssistantAxis, Floors, ModelIdentity

_AXIS_NAMES = ("axis.safetensors", "assistant_axis.pt", "axis.pt")
_FLOORS_NAMES = ("floors.safetensors", "capping_config.pt")


def load_axis(
    source: str | Path,
    *,
    identity: ModelIdentity | None = None,
    layer: int | None = None,
    orientation: Orientation | None = None,
    reference: AssistantAxis | None = None,
    default_LD: Float[Tensor, "layer hidden"] | None = None,
    role_mean_LD: Float[Tensor, "layer hidden"] | None = None,
) -> AssistantAxis:
    """An axis from a `.safetensors` of ours, a run folder, the reference's `.pt`, or a hub id.

    `identity` is the model that the axis is for: another one's is refused with
    ModelMismatchError. `layer` replaces the recommended layer. A `.pt` file does not say its sign:
    `orientation` does (assistant-ward unless the file is called contrast), and it is held against
    a trusted axis (`reference`) or against the two means, which also tell the gap.
    """
    path = locate(source, _AXIS_NAMES)
    axis = _read_axis(path, identity, orientation)
    _check_identity(axis.identity, identity, path)
    if reference is not None:
        check_sign(axis, reference.vector, "the axis given as reference")
    if default_LD is not None and role_mean_LD is not None:
        check_sign(axis, default_LD.float() - role_mean_LD.float(), "default minus role mean")
        axis = _with_gap(axis, default_LD, role_mean_LD)
    return axis if layer is None else replace(axis, layer=layer)


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
    path = locate(source, _FLOORS_NAMES)
    floors = _read_floors(path, setting, identity)
    if floors.identity is not None:
        _check_identity(floors.identity, identity, path)
    if identity is not None:
        _check_fit(floors, identity, path)
    if axis is not None:
        check_along(floors, axis)
    return floors


def load_settings(source: str | Path) -> dict[str, Floors]:
    """All bands of a file of ours or of a run folder, by name; of a `capping_config.pt` the one.

    Raises as `load_floors`.
    """
    path = locate(source, _FLOORS_NAMES)
    if path.suffix == ".pt":
        return {(floors := _read_floors(path, None, None)).name: floors}
    if path.is_dir():
        run = open_run(path)
        return {name: run.floors_named(name) for name in run.settings}
    return {floors.name: floors for floors in read_floors(path).settings}


def _read_axis(
    path: Path, identity: ModelIdentity | None, orientation: Orientation | None
) -> AssistantAxis:
    if orientation not in (None, "assistant-ward", "role-ward"):
        raise UsageError(
            f'orientation is {orientation!r}, expected "assistant-ward" or "role-ward"'
        )
    if path.suffix == ".pt":
        return _reference_axis(path, identity, orientation)
    if orientation == "role-ward":
        raise UsageError(f"{path} says its sign itself, assistant-ward; leave out orientation")
    return open_run(path).axis if path.is_dir() else read_axis(path)


def _reference_axis(
    path: Path, identity: ModelIdentity | None, orientation: Orientation | None
) -> AssistantAxis:
    axis = read_reference_axis(path, orientation)
    _check_identity(axis.identity, identity, path)
    if identity is None:
        return axis
    facts = {**axis.provenance, "identity": "given when it was read"}
    return replace(axis, identity=identity, provenance=facts)


def _read_floors(path: Path, setting: str | None, identity: ModelIdentity | None) -> Floors:
    if path.suffix == ".pt":
        return read_capping_config(path, setting=setting, identity=identity)
    if not path.is_dir():
        return read_floors(path).named(setting)
    run = open_run(path)
    return run.floors if setting is None else run.floors_named(setting)


def _check_identity(found: ModelIdentity, wanted: ModelIdentity | None, path: Path) -> None:
    mismatch = found.mismatch(wanted) if wanted is not None else None
    if mismatch:
        raise ModelMismatchError(
            f"{path} was made on another model: {mismatch}; use the model it was made on, "
            "or make one for this model: keel extract"
        )


def _check_fit(floors: Floors, identity: ModelIdentity, path: Path) -> None:
    for floor in floors:
        if floor.layer >= identity.layers or len(floor.direction) != identity.hidden_size:
            raise ModelMismatchError(
                f"{path} has a floor at layer {floor.layer} of size {len(floor.direction)}, "
                f"{identity.model_id} has {identity.layers} layers of size {identity.hidden_size}; "
                "use the floors of this model"
            )


def _with_gap(axis: AssistantAxis, default_LD: Tensor, role_mean_LD: Tensor) -> AssistantAxis:
    """The axis with the places of default and roles along it."""
    return replace(
        axis,
        default_projection=(default_LD.float() * axis.direction).sum(-1),
        role_projection=(role_mean_LD.float() * axis.direction).sum(-1),
        provenance={**axis.provenance, "gap": "from the means given when it was read"},
    )
