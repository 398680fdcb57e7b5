"""Principal components of role vectors: mean-centred only, PC1 towards the Assistant."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from keel.geometry import cosine
from keel.types import PersonaSpace


def fit_space(
    roles: tuple[str, ...],
    vectors_RLD: Float[Tensor, "role layer hidden"],
    default_LD: Float[Tensor, "layer hidden"],
    components: int,
) -> PersonaSpace:
    """PCA at every layer (Lu et al. 2026, §2.1.3), at most one component fewer than roles.

    PC1 points where the default lies; the others so that their largest loading is positive.
    The default is centred with the roles' mean.
    """
    kept = min(components, len(roles) - 1, vectors_RLD.shape[-1])
    parts = [_fit_layer(vectors_RLD[:, n], default_LD[n], kept) for n in range(len(default_LD))]
    mean_LD = vectors_RLD.mean(0)
    components_LKD = torch.stack([rows for rows, _ in parts])
    centred_LRD = (vectors_RLD - mean_LD).transpose(0, 1)
    default_centred_LD = default_LD - mean_LD
    return PersonaSpace(
        roles=roles,
        mean_LD=mean_LD,
        components_LKD=components_LKD,
        variance_ratio_LK=torch.stack([ratio for _, ratio in parts]),
        loadings_LRK=cosine(centred_LRD[:, :, None], components_LKD[:, None]),
        coordinates_LRK=torch.einsum("lrd,lkd->lrk", centred_LRD, components_LKD),
        default_loadings_LK=cosine(default_centred_LD[:, None], components_LKD),
        default_coordinates_LK=torch.einsum("ld,lkd->lk", default_centred_LD, components_LKD),
    )


def _fit_layer(vectors_RD: Tensor, default_D: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Components (rows) and shares of variance at one layer, through the roles' Gram matrix."""
    mean_D = vectors_RD.double().mean(0)
    centred_RD = vectors_RD.double() - mean_D
    # R × R instead of D × D: roles are far fewer than dimensions.
    values_R, weights_RR = torch.linalg.eigh(centred_RD @ centred_RD.T)
    values_K = values_R.flip(0)[:kept].clamp_min(0)
    loadings_RK = weights_RR.flip(1)[:, :kept]
    rows_KD = torch.nn.functional.normalize(loadings_RK.T @ centred_RD, dim=-1)
    largest_K = loadings_RK.gather(0, loadings_RK.abs().argmax(0, keepdim=True))[0]
    signs_K = torch.where(largest_K < 0, -1.0, 1.0)
    if float((default_D.double() - mean_D) @ rows_KD[0]) * float(signs_K[0]) < 0:
        signs_K[0] = -signs_K[0]
    total = values_R.clamp_min(0).sum().clamp_min(1e-30)
    return (signs_K[:, None] * rows_KD).float(), (values_K / total).float()
