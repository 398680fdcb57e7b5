"""Which activations stay when a run is thinned: every k-th rollout's, so all lengths and roles."""

from __future__ import annotations

from pathlib import Path

import torch

from keel.store.artefacts import read_activations, save_activations
from keel.store.batches import read_rollouts
from keel.store.layout import activations_file, committed_batches
from keel.store.manifest import Kept
from keel.types import ActivationBatch

SAMPLE = 1000
"""About how many rollouts a sample holds."""


def thin_activations(root: Path, keep: Kept) -> None:
    """Delete the activations of all but those rollouts that are kept.

    The choice depends on the rollouts alone: done again after a kill, it keeps the same ones.
    """
    kept = _sampled(root) if keep == "sample" else set()
    for number in committed_batches(root):
        path = root / activations_file(number)
        if path.exists():
            _thin_file(path, kept)


def _sampled(root: Path) -> set[str]:
    ids = [rollout.prompt.id for rollout in read_rollouts(root)]
    return set(ids[:: -(-len(ids) // SAMPLE) or 1])


def _thin_file(path: Path, kept: set[str]) -> None:
    batch = read_activations(path) if kept else None
    chosen = [n for n, name in enumerate(batch.rollout_ids) if name in kept] if batch else []
    if batch is None or not chosen:
        path.unlink()
        return
    rows = torch.tensor(chosen)
    ids = tuple(batch.rollout_ids[n] for n in chosen)
    save_activations(ActivationBatch(ids, batch.means_BLD[rows], batch.norms_BL[rows]), path)
