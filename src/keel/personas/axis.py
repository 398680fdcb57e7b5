"""Role vectors, the Assistant Axis and persona space, from mean activations (Lu et al. 2026).

`means_NLD` has a row per kind of answer: the default first, then the roles. Knows nothing of
rollouts, and nothing of how far the axis can be trusted: that is quality.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from keel.personas.cells import Cells
from keel.settings import MapSettings
from keel.types import (
    SOMEWHAT,
    AssistantAxis,
    AxisFolds,
    ModelIdentity,
    PersonaSpace,
    PersonaVector,
)


def role_vectors(
    cells: Cells, means_NLD: Float[Tensor, "row layer hidden"], settings: MapSettings
) -> tuple[PersonaVector, ...]:
    """Mean response activation of each role at every layer; each rollout weighs the same.

    Each comes with its number of rollouts.
    """
    # `playing` mixes two labels, as `all` does; the axis' provenance says which it was.
    label = "all" if settings.label == "playing" else settings.label
    rows = zip(cells.counts.items(), means_NLD[1:], strict=True)
    return tuple(
        PersonaVector(role, _label_of(role) if label == "separate" else label, vector_LD, count)
        for (role, count), vector_LD in rows
    )


def row_name(role: str, label: str) -> str:
    """A role's name where its vectors are kept apart by label: `pirate`, `pirate (somewhat)`."""
    return role + SOMEWHAT if label == "somewhat" else role


def _label_of(name: str) -> Literal["fully", "somewhat"]:
    """The label of a vector whose name is a `row_name`."""
    return "somewhat" if name.endswith(SOMEWHAT) else "fully"


def axis_of(means_NLD: Float[Tensor, "row layer hidden"]) -> Float[Tensor, "layer hidden"]:
    """Mean of the default − unweighted mean of the role vectors (§3.1)."""
    # A role may have no rollout in a half of the questions; it has no mean there.
    return means_NLD[0] - means_NLD[1:].nanmean(0)


def axis_folds(cells: Cells) -> AxisFolds:
    """The axis from each fold of the questions, with the spread of roles that is no noise."""
    sums_NFLD, counts_NF = cells.sums_NFLD, cells.counts_NF
    folds, layers = sums_NFLD.shape[1:3]
    contrasts, spreads = [], []
    for layer in range(layers):  # all layers at once would be a copy of all sums
        means_NFD = sums_NFLD[:, :, layer].double() / counts_NF[..., None]
        contrasts.append(means_NFD[0] - means_NFD[1:].nanmean(0))
        about_RFD = (means_NFD[1:] - means_NFD[1:].nanmean(0)).nan_to_num(0)
        # Of pairs of folds, whose noise is independent.
        pairs = about_RFD.sum(1).square().sum() - about_RFD.square().sum()
        spreads.append(pairs / (folds * (folds - 1)) / (len(about_RFD) - 1))
    is_known_F = (counts_NF[0] > 0) & (counts_NF[1:] > 0).any(0)
    return AxisFolds(
        torch.stack(contrasts, 1).nan_to_num(0).float(),
        (counts_NF[0] * is_known_F).float(),
        torch.stack(spreads).float(),
    )


def assistant_axis(
    cells: Cells,
    means_NLD: Float[Tensor, "row layer hidden"],
    *,
    layer: int,
    identity: ModelIdentity,
    settings: MapSettings,
) -> AssistantAxis:
    """The axis at every layer, with where the default and the mean role project on it."""
    vector_LD = axis_of(means_NLD)
    # In float64: the two differ by far less than either is long.
    direction_LD = torch.nn.functional.normalize(vector_LD.double(), dim=-1)
    return AssistantAxis(
        vector=vector_LD,
        layer=layer,
        default_projection=(means_NLD[0] * direction_LD).sum(-1).float(),
        role_projection=(means_NLD[1:].mean(0) * direction_LD).sum(-1).float(),
        residual_norm=cells.residual_norm_L,
        identity=identity,
        provenance={
            "label": settings.label,
            "roles": len(cells.roles),
            "role_rollouts": sum(cells.counts.values()),
            "default_rollouts": cells.default_count,
            "question_folds": cells.counts_NF.shape[1],
            "settings": asdict(settings),
        },
    )


def fit_space(
    roles: tuple[str, ...],
    vectors_RLD: Float[Tensor, "role layer hidden"],
    default_LD: Float[Tensor, "layer hidden"],
    components: int,
) -> PersonaSpace:
    """PCA of the role vectors at every layer (§2.1.3), at most one component fewer than roles.

    Mean-centred only. PC1 points where the default lies; the others so that their largest
    coordinate is positive. The default is centred with the roles' mean, and not fitted.
    """
    kept = min(components, len(roles) - 1, vectors_RLD.shape[-1])
    mean_LD = vectors_RLD.double().mean(0)
    components_L, ratios_L, coordinates_L, lengths_L = [], [], [], []
    for layer, mean_D in enumerate(mean_LD):
        centred_RD = vectors_RLD[:, layer].double() - mean_D
        # R × R instead of D × D: roles are far fewer than dimensions.
        values_R, weights_RR = torch.linalg.eigh(centred_RD @ centred_RD.T)
        spanned_KD = weights_RR.flip(1)[:, :kept].T @ centred_RD
        # Orthonormal even where roles coincide and the last components have no variance.
        rows_KD = torch.linalg.qr(spanned_KD.T).Q.T
        centred_ND = torch.cat([(default_LD[layer] - mean_D)[None], centred_RD])
        coordinates_NK = centred_ND @ rows_KD.T
        signs_K = _signs(coordinates_NK)
        total = values_R.clamp_min(0).sum().clamp_min(1e-30)
        components_L.append(signs_K[:, None] * rows_KD)
        ratios_L.append(values_R.flip(0)[:kept].clamp_min(0) / total)
        coordinates_L.append(signs_K * coordinates_NK)
        lengths_L.append(centred_ND.norm(dim=1))
    coordinates_LNK = torch.stack(coordinates_L)
    # Written out, not as `cosine`: broadcast over components, that would copy every role K times.
    loadings_LNK = coordinates_LNK / torch.stack(lengths_L)[..., None].clamp_min(1e-30)
    return PersonaSpace(
        roles=roles,
        mean_LD=mean_LD.float(),
        components_LKD=torch.stack(components_L).float(),
        variance_ratio_LK=torch.stack(ratios_L).float(),
        loadings_LRK=loadings_LNK[:, 1:].float(),
        coordinates_LRK=coordinates_LNK[:, 1:].float(),
        default_loadings_LK=loadings_LNK[:, 0].float(),
        default_coordinates_LK=coordinates_LNK[:, 0].float(),
    )


def _signs(coordinates_NK: Tensor) -> Tensor:
    """+1 or −1 for each component, decided by coordinates: the default's on PC1."""
    roles_RK = coordinates_NK[1:]
    deciding_K = roles_RK.gather(0, roles_RK.abs().argmax(0, keepdim=True))[0]
    if float(coordinates_NK[0, 0]) != 0:
        deciding_K[0] = coordinates_NK[0, 0]
    return torch.where(deciding_K < 0, -1.0, 1.0).to(coordinates_NK.dtype)
