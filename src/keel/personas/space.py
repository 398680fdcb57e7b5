"""Principal components of role vectors: mean-centred only, PC1 towards the Assistant."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from keel.types import PersonaSpace


def fit_space(
    roles: tuple[str, ...],
    vectors_RLD: Float[Tensor, "role layer hidden"],
    default_LD: Float[Tensor, "layer hidden"],
    components: int,
) -> PersonaSpace:
    """PCA at every layer (Lu et al. 2026, §2.1.3), at most one component fewer than roles.

    PC1 points where the default lies; the others so that their largest coordinate is positive.
    The default is centred with the roles' mean.
    """
    kept = min(components, len(roles) - 1, vectors_RLD.shape[-1])
    mean_LD = vectors_RLD.double().mean(0)
    layers = [
        _fit_layer(vectors_RLD[:, n].double() - mean_LD[n], default_LD[n] - mean_LD[n], kept)
        for n in range(len(mean_LD))
    ]
    rows, ratios, coordinates, lengths = zip(*layers, strict=True)
    coordinates_LNK = torch.stack(coordinates)
    # Written out, not as `cosine`: broadcast over components, that would copy every role K times.
    loadings_LNK = coordinates_LNK / torch.stack(lengths)[..., None].clamp_min(1e-30)
    return PersonaSpace(
        roles=roles,
        mean_LD=mean_LD.float(),
        components_LKD=torch.stack(rows).float(),
        variance_ratio_LK=torch.stack(ratios).float(),
        loadings_LRK=loadings_LNK[:, 1:].float(),
        coordinates_LRK=coordinates_LNK[:, 1:].float(),
        default_loadings_LK=loadings_LNK[:, 0].float(),
        default_coordinates_LK=coordinates_LNK[:, 0].float(),
    )


def _fit_layer(
    centred_RD: Tensor, default_D: Tensor, kept: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Components, shares of variance; coordinates and lengths of the default, then of the roles."""
    # R × R instead of D × D: roles are far fewer than dimensions.
    values_R, weights_RR = torch.linalg.eigh(centred_RD @ centred_RD.T)
    spanned_KD = weights_RR.flip(1)[:, :kept].T @ centred_RD
    # Orthonormal even where roles coincide and the last components have no variance.
    rows_KD = torch.linalg.qr(spanned_KD.T).Q.T
    centred_ND = torch.cat([default_D[None], centred_RD])
    coordinates_NK = centred_ND @ rows_KD.T
    signs_K = _signs(coordinates_NK)
    shares_K = values_R.flip(0)[:kept].clamp_min(0) / values_R.clamp_min(0).sum().clamp_min(1e-30)
    return signs_K[:, None] * rows_KD, shares_K, signs_K * coordinates_NK, centred_ND.norm(dim=1)


def _signs(coordinates_NK: Tensor) -> Tensor:
    """+1 or −1 for each component, decided by coordinates: the default's on PC1."""
    roles_RK = coordinates_NK[1:]
    deciding_K = roles_RK.gather(0, roles_RK.abs().argmax(0, keepdim=True))[0]
    if float(coordinates_NK[0, 0]) != 0:
        deciding_K[0] = coordinates_NK[0, 0]
    return torch.where(deciding_K < 0, -1.0, 1.0).to(coordinates_NK.dtype)
