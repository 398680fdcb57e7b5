"""What workers recorded, as the values of an engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from safetensors.torch import load, save
from torch import Tensor

from keel.engines.protocol import Recording
from keel.errors import NotAppliedError
from keel.steering import Probe
from keel.types import Activations


def merged(ranks: Iterable[bytes]) -> dict[str, Tensor]:
    """What all pipeline stages recorded: each knows its own layers, the others' sums are zero."""
    found: dict[str, Tensor] = {}
    for packed in ranks:
        for name, tensor in load(packed).items():
            known = found.get(name)
            is_sum = known is not None and not name.endswith("/tokens")
            found[name] = _added(known, tensor) if is_sum and known is not None else tensor
    return found


def turn_of(
    held: Mapping[str, Tensor], key: str, number: int, tokens: int, recording: Recording
) -> tuple[Activations | None, Tensor | None]:
    place = f"{key}/{number}"
    seen = int(held[f"{place}/tokens"])
    if seen != tokens:
        raise NotAppliedError(f"{seen} of {tokens} tokens were recorded; do not trust this answer")
    activations = None
    if recording.means and tokens:
        sums, norms = held[f"{place}/sums"], held[f"{place}/norms"]
        activations = Activations(sums / tokens, norms / tokens, tokens)
    heights = held.get(f"{place}/heights") if recording.probes else None
    if recording.probes and heights is None:
        heights = torch.zeros(0, len(recording.probes))
    return activations, heights[:, : len(recording.probes)] if heights is not None else None


def _added(left: Tensor, right: Tensor) -> Tensor:
    if left.shape == right.shape:
        return left + right
    longer, shorter = (left, right) if len(left) > len(right) else (right, left)
    longer = longer.clone()
    longer[: len(shorter)] += shorter
    return longer


def packed(probes: Sequence[Probe]) -> bytes:
    packed_probes: bytes = save(
        {
            "layers": torch.tensor([probe.layer for probe in probes]),
            "directions": torch.stack([probe.direction.float().cpu() for probe in probes]),
        }
    )
    return packed_probes
