"""Capping configurations of the reference implementation, and what holds files against each other.

Its `capping_config.pt` holds role-ward vectors and the *highest* projection allowed on them: as a
floor on the assistant-ward direction that is v = −v/‖v‖ with value −cap. The percentile in its
names is role-ward too. Thresholds are turned round here and nowhere else.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.arrays import Tensor, torch
from keel.errors import ModelMismatchError, UsageError
from keel.geometry import cosine, unit
from keel.store.files import read_pickled_tensors, reading, write_bytes
from keel.store.floors import check_setting
from keel.types import AssistantAxis, Floor, Floors, ModelIdentity

_SAME_DIRECTION = 0.99


def read_capping_config(
    path: Path, *, setting: str | None = None, identity: ModelIdentity | None = None
) -> Floors:
    """One experiment of a `capping_config.pt`, as floors on assistant-ward directions."""
    config = read_pickled_tensors(path)
    with reading(path, "a capping configuration"):
        names = [str(entry["id"]) for entry in config["experiments"]]
        if setting is None and len(names) != 1:
            raise UsageError(
                f"the file has {len(names)} settings ({', '.join(names[:3])}, …); "
                "name one with setting="
            )
        name = names[0] if setting is None else setting
        check_setting(name, names)
        floors = _capping_floors(config, name)
    if not floors:
        raise UsageError(
            f"setting {name!r} in {path} caps nothing: its interventions add vectors, and have no "
            "`cap`; choose a setting that caps"
        )
    return Floors(floors, name, identity, _capping_facts(path, name))


def read_capping_configs(path: Path) -> dict[str, Floors]:
    """All experiments of a `capping_config.pt` that cap, by name. Raises UsageError for none."""
    config = read_pickled_tensors(path)
    with reading(path, "a capping configuration"):
        bands = {
            (name := str(entry["id"])): _capping_floors(config, name)
            for entry in config["experiments"]
        }
    if not any(bands.values()):
        raise UsageError(f"no setting in {path} caps; its interventions add vectors")
    return {
        name: Floors(floors, name, provenance=_capping_facts(path, name))
        for name, floors in bands.items()
        if floors
    }


def _capping_floors(config: Mapping[str, Any], name: str) -> tuple[Floor, ...]:
    """Floors of the experiment of that name; empty for one that only adds."""
    floors = []
    experiment = next(entry for entry in config["experiments"] if str(entry["id"]) == name)
    for intervention in experiment["interventions"]:
        if "cap" in intervention:
            entry = config["vectors"][intervention["vector"]]
            direction, cap = -unit(entry["vector"]), float(intervention["cap"])
            floors.append(Floor(int(entry["layer"]), direction, -cap))
    return tuple(floors)


def _capping_facts(path: Path, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "source": path.name,
        "sign_in_file": "role-ward, turned round on reading",
    }
    quantile = re.search(r"-p(0(?:\.\d+)?|1(?:\.0+)?)$", name)
    if quantile:
        # Their p0.25 is the 25th percentile of role-ward projections.
        facts["percentile"] = round(100 * (1 - float(quantile[1])), 6)
        facts["percentile_note"] = f"assistant-ward; {quantile[0][1:]} in the name is role-ward"
    return facts


def check_sign(axis: AssistantAxis, contrast_LD: Tensor, source: str) -> None:
    """Refuse an axis that points the other way than a trusted assistant-ward contrast.

    Raises UsageError. The middle of the layers' cosines decides.
    """
    if contrast_LD.shape != axis.vector.shape:
        raise ModelMismatchError(
            f"{source} is {list(contrast_LD.shape)}, the axis {list(axis.vector.shape)}; "
            "use those of one model"
        )
    agreement = float(cosine(axis.vector, contrast_LD).median())
    if agreement < 0:
        raise UsageError(
            f"the axis points away from {source} (median cosine {agreement:.2f}): towards the "
            'roles; pass orientation="role-ward" if the file was made so, else "assistant-ward"'
        )


def check_along(floors: Floors, axis: AssistantAxis) -> None:
    """Refuse floors whose directions are not the axis' own.

    Raises UsageError where they are turned round, ModelMismatchError where they are others.
    """
    for floor in floors:
        if floor.layer >= axis.vector.shape[0] or floor.direction.shape != axis.vector.shape[1:]:
            raise ModelMismatchError(
                f"floor at layer {floor.layer} has {len(floor.direction)} dimensions, the axis is "
                f"{list(axis.vector.shape)}; use the axis of the same model"
            )
        agreement = float(cosine(floor.direction, axis.vector[floor.layer]))
        if agreement < -_SAME_DIRECTION:
            raise UsageError(
                f"direction at layer {floor.layer} has orientation opposite to the axis (cosine "
                f"{agreement:.3f}); one of the two files was made with the other sign"
            )
        if agreement <= _SAME_DIRECTION:
            raise ModelMismatchError(
                f"direction at layer {floor.layer} has cosine {agreement:.3f} with the axis, "
                f"expected above {_SAME_DIRECTION}; use the axis that the floors were made on"
            )


def export_capping_config_pt(settings: Sequence[Floors], path: str | Path) -> None:
    """Write bands as the reference's `capping_config.pt`: role-ward, with the highest projection.

    Raises UsageError on floors that this form cannot say: of some tokens only, or infinite.
    """
    vectors: dict[str, dict[str, Any]] = {}
    experiments: list[dict[str, Any]] = []
    for band in settings:
        interventions = []
        for floor in band:
            if floor.tokens != "all" or math.isinf(floor.value):
                raise UsageError(
                    f"floor at layer {floor.layer} holds for {floor.tokens} tokens at "
                    f"{floor.value}; a capping configuration can only say finite floors for all "
                    "tokens"
                )
            vector = -floor.direction.detach().float().cpu().clone()
            name = f"layer_{floor.layer}/role_ward"
            while name in vectors and not torch.equal(vectors[name]["vector"], vector):
                name += "+"
            vectors[name] = {"vector": vector, "layer": floor.layer}
            interventions.append({"vector": name, "cap": -floor.value})
        experiments.append({"id": band.name, "interventions": interventions})
    save_pt({"vectors": vectors, "experiments": experiments}, Path(path))


def save_pt(content: Any, path: Path) -> None:
    """Write a value as a `.pt` file."""
    data = io.BytesIO()
    torch.save(content, data)
    write_bytes(path, data.getvalue())
