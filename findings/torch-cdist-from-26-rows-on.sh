#!/usr/bin/env bash
# `torch.cdist` of activations (float32, 768 wide) of which one channel is massive: 3000 in every row, the rest of sd 1.
# Expected: the distance of two rows hangs on these two rows, and of a row to itself is 0, how many others there are.
# Seen (torch 2.13.0): up to 25 rows, right to 1e-4. From 26 rows on, it is taken from squared lengths, whose rounding is of
# the distances' own order: true distances of 40 are off by 5, a row is up to 5 away from itself, and nearest
# neighbours change, without a warning. compute_mode="donot_use_mm_for_euclid_dist" is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch

print("torch", torch.__version__)
torch.manual_seed(0)
rows = torch.randn(26, 768)
rows[:, 5] += 3000
true = torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist")[:25, :25]


def report(name, distances):
    """The largest error of the distances among the first 25 rows, and of their distance to themselves."""
    error = float((distances[:25, :25] - true).abs().max())
    itself = float(distances.diagonal()[:25].max())
    order = float((distances[:25, :25].argsort(1) == true.argsort(1)).float().mean())
    print(f"{name}: off by up to {error:.4f}, a row to itself {itself:.4f}, same order of neighbours {order:.0%}")
    return error < 1e-3


print(f"true distances of different rows: {true[true > 0].min():.1f} to {true.max():.1f}")
right = [
    report("25 rows", torch.cdist(rows[:25], rows[:25])),
    report("26 rows", torch.cdist(rows, rows)),
    report("26 rows, without matmul", torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")),
]
sys.exit(0 if right == [True, False, True] else "CHANGED")
PYTHON
