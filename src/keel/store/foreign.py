"""Files of other programs: the reference implementation's `.pt`, and GGUF for llama.cpp.

The reference's axes and capping configurations are read and written. Signs and thresholds are
turned round here and nowhere else. Its `capping_config.pt` holds role-ward vectors and the
*highest* projection allowed on them: as a floor on the assistant-ward direction that is
v = −v/‖v‖ with value −cap. The percentile in its names is role-ward too.

llama.cpp takes control vectors and can only add them: floors have no such form. `direction.N` is
added to the output of block N, counted from 0, as Keel counts: llama.cpp's loader stores it at
index N − 1 and its graph reads index N − 1 for block N. Block 0 cannot be steered.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from keel.errors import CorruptArtifactError, ModelMismatchError, NotFiniteError, UsageError
from keel.geometry import cosine, unit
from keel.store.files import read_pickled_tensors, reading, replacing, write_bytes
from keel.store.floors import check_setting
from keel.types import AssistantAxis, Floor, Floors, ModelIdentity

Orientation = Literal["assistant-ward", "role-ward"]

_PAPER_LAYERS = {(46, 4608): 22, (64, 5120): 32, (80, 8192): 40}
"""Layers that the paper reads, by shape of its three models."""
_SAME_DIRECTION = 0.99
_PREFIX = "direction."


def read_reference_axis(path: Path, orientation: Orientation | None = None) -> AssistantAxis:
    """The axis in a `.pt` file: a tensor [layer, hidden], or a dictionary with it.

    Such a file says neither its sign, nor its model, nor where default and roles lie. The gap and
    the residual norms are therefore NaN, and `provenance["gap"]` is `"unknown"`.
    """
    vector = _axis_tensor(read_pickled_tensors(path), path)
    if orientation is None and "contrast" in path.name:
        raise UsageError(
            f"{path} does not say its sign, and contrast vectors were published role-ward; pass "
            'orientation="role-ward", or "assistant-ward" if you know better'
        )
    sign = orientation or "assistant-ward"
    layers, hidden = vector.shape
    known = (layers, hidden) in _PAPER_LAYERS
    unknown_L = torch.full((layers,), math.nan)
    return AssistantAxis(
        vector=-vector if sign == "role-ward" else vector,
        layer=_PAPER_LAYERS.get((layers, hidden), layers // 2),
        default_projection=unknown_L,
        role_projection=unknown_L.clone(),
        residual_norm=unknown_L.clone(),
        identity=ModelIdentity("unknown", layers=layers, hidden_size=hidden),
        provenance={
            "source": path.name,
            "sign_in_file": sign,
            "gap": "unknown",
            "layer": "the paper's" if known else "the middle one",
            "identity": "not in the file",
        },
    )


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


def export_axis_pt(axis: AssistantAxis, path: str | Path) -> None:
    """Write the axis as the reference does: `{"axis": tensor}`, assistant-ward, not normalised."""
    _save_pt({"axis": axis.vector.detach().cpu().clone()}, Path(path))


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
    _save_pt({"vectors": vectors, "experiments": experiments}, Path(path))


def export_gguf_control_vector(
    vector_LD: Float[Tensor, "layer hidden"],
    path: str | Path,
    *,
    identity: ModelIdentity,
    layers: Collection[int],
) -> None:
    """Write vectors for llama.cpp to add to the output of some blocks, at its scale 1.

    `vector_LD` has a row per block, strength included, e.g. `strength * axis.direction`;
    assistant-ward at positive strength. Raises UsageError on block 0, which llama.cpp leaves alone.
    """
    import gguf

    expected = (identity.layers, identity.hidden_size)
    if tuple(vector_LD.shape) != expected:
        raise UsageError(
            f"vector is {list(vector_LD.shape)}, expected {list(expected)} for {identity.model_id}"
        )
    if not layers or not all(1 <= layer < identity.layers for layer in layers):
        raise UsageError(
            f"layers are {sorted(layers)}, expected some of 1 to {identity.layers - 1}: llama.cpp "
            "cannot add to block 0; choose others"
        )
    if not bool(torch.isfinite(vector_LD).all()):
        raise NotFiniteError("the control vector holds NaN or Inf; look at where it came from")
    chosen, rows_LD = sorted(set(layers)), vector_LD.detach().float().cpu()
    with replacing(Path(path), 4 * identity.hidden_size * len(chosen)) as scratch:
        writer = gguf.GGUFWriter(scratch, "controlvector")
        try:
            writer.add_string("controlvector.model_hint", identity.model_id)
            writer.add_uint32("controlvector.layer_count", len(chosen))
            for layer in chosen:
                writer.add_tensor(f"{_PREFIX}{layer}", rows_LD[layer].contiguous().numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def read_gguf_control_vector(path: str | Path) -> dict[int, Float[Tensor, " hidden"]]:
    """The vectors of a control vector file by block (counted from 0)."""
    import gguf

    with reading(Path(path), "a GGUF control vector"):
        if not Path(path).stat().st_size:
            raise ValueError("it is empty")  # the reader cannot map an empty file
        tensors = gguf.GGUFReader(path).tensors
        rows = {t.name: torch.tensor(t.data.copy()) for t in tensors if t.name.startswith(_PREFIX)}
        if not rows:
            raise ValueError("it holds no tensor called direction.N")
        return {int(name.removeprefix(_PREFIX)): row for name, row in rows.items()}


def _axis_tensor(content: Any, path: Path) -> Tensor:
    if isinstance(content, Mapping):
        content = next((content[key] for key in ("axis", "vector") if key in content), content)
    if not isinstance(content, Tensor):
        keys = f" with keys {list(content)[:4]}" if isinstance(content, Mapping) else ""
        raise CorruptArtifactError(
            f"{path} holds a {type(content).__name__}{keys}, expected a tensor, or a dictionary "
            "with `axis` or `vector`; point at the file of the axis"
        )
    if content.ndim != 2 or not content.is_floating_point():
        raise UsageError(
            f"{path} holds a {content.dtype} tensor {list(content.shape)}, expected floats "
            "[layers, hidden]; give the axis of all layers"
        )
    return content.detach().float().clone()


def _save_pt(content: Any, path: Path) -> None:
    data = io.BytesIO()
    torch.save(content, data)
    write_bytes(path, data.getvalue())
