#!/usr/bin/env bash
# safetensors' readers for numpy, a file with one bfloat16 tensor, the dtype that most models are published in.
# Expected: all readers of the same file give the same tensor, or one refusal that names the dtype and the remedy.
# Seen (safetensors 0.8.0, numpy 2.4.0, ml_dtypes 0.5.4): `safe_open(..., framework="np")` and `numpy.load_file` raise a
# TypeError that names neither file nor tensor, `numpy.load` of the same bytes a bare KeyError. Once anything in the
# process has imported ml_dtypes (jax does), the first two give the right numbers and the third still fails: whether a
# checkpoint can be read hangs on an import elsewhere.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.0 ml_dtypes==0.5.4
cat > "$folder/read.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import numpy
import safetensors
from safetensors import safe_open
from safetensors.numpy import load, load_file

path = str(Path(sys.argv[0]).with_name("weights.safetensors"))
# 1.0, 2.5 and -3.0: the upper half of their float32.
bits = (numpy.array([1.0, 2.5, -3.0], numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16)
header = json.dumps({"weight": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
Path(path).write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())


def by_safe_open():
    with safe_open(path, framework="np") as handle:
        return handle.get_tensor("weight")


ways = {
    "safe_open": by_safe_open,
    "load_file": lambda: load_file(path)["weight"],
    "load": lambda: load(Path(path).read_bytes())["weight"],
}


def outcome(read):
    try:
        return read().astype(numpy.float32).tolist()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


before = {name: outcome(read) for name, read in ways.items()}
import ml_dtypes  # noqa: E402, F401

after = {name: outcome(read) for name, read in ways.items()}
print("safetensors", safetensors.__version__, "numpy", numpy.__version__)
for name in ways:
    print(f"{name}: {before[name]}; with ml_dtypes imported: {after[name]}")
right = [1.0, 2.5, -3.0]
expected_before = {"safe_open": "TypeError", "load_file": "TypeError", "load": "KeyError"}
same = all(str(before[name]).startswith(kind) for name, kind in expected_before.items())
same = same and after["safe_open"] == after["load_file"] == right
sys.exit(0 if same and str(after["load"]).startswith("KeyError") else "CHANGED")
PYTHON
"$folder/venv/bin/python" "$folder/read.py"
