#!/usr/bin/env bash
# `safetensors.numpy.save` and `save_file` of a transposed array or of every second column: `vh.T` after an SVD,
# `components.T`, one head's columns.
# Expected: what is read back equals what was saved, as with safetensors 0.7.0, or an error as `safetensors.torch` raises
# for the same tensor.
# Seen (safetensors 0.8.0): the shape is right, the numbers are those that lie in memory from the view's first on: a
# transposed matrix comes back scrambled, the columns are others. Nothing is raised, the file is valid.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/pip" install -q --no-deps --target "$folder/older" safetensors==0.7.0
cat >"$folder/views.py" <<'PYTHON'
import importlib.metadata
import sys

import numpy as np
from safetensors.numpy import load, save

print("safetensors", importlib.metadata.version("safetensors"), "numpy", np.__version__)
matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
views = {"whole": matrix, "transposed": matrix.T, "columns": matrix[:, ::2]}
kept = {}
for name, view in views.items():
    read = load(save({"x": view}))["x"]
    kept[name] = read.shape == view.shape and bool((read == view).all())
    print(f"{name}: saved {view.ravel().tolist()}, read {read.ravel().tolist()}")
print("read as saved:", kept)
sys.exit(0 if list(kept.values()) == [answer == "kept" for answer in sys.argv[1:]] else "CHANGED")
PYTHON
PYTHONPATH="$folder/older" "$folder/venv/bin/python" "$folder/views.py" kept kept kept
"$folder/venv/bin/python" "$folder/views.py" kept lost lost
