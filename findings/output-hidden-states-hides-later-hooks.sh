#!/usr/bin/env bash
# A forward hook that changes a block's output (steering, ablation), and `output_hidden_states=True`.
# Expected: hidden states show what the block handed on, whenever the hook was registered.
# Seen (transformers 5.19.0): the first call that asks for hidden states leaves hooks on the blocks for good. A hook
# of one's own that is registered after it changes the logits but not the hidden states that are
# shown; registered before it, both. Two runs of one cell in a notebook give two answers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.19.0 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.manual_seed(0)

config = LlamaConfig(
    vocab_size=97, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64
)
ids = torch.randint(3, 97, (1, 6))


@torch.no_grad()
def shown_and_felt(was_used_before):
    """How far a hook that adds 100 moves the shown output of its block, and the logits."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    plain = model(ids, output_hidden_states=was_used_before)
    model.model.layers[0].register_forward_hook(lambda _block, _args, output: output + 100)
    output = model(ids, output_hidden_states=True)
    felt = float((output.logits - plain.logits).abs().max())
    return round(float(output.hidden_states[1].mean())), felt


fresh, used = shown_and_felt(False), shown_and_felt(True)
print(f"never asked before: shown {fresh[0]}, logits moved by {fresh[1]:.2f}")
print(f"asked once before:  shown {used[0]}, logits moved by {used[1]:.2f}")
is_as_seen = (fresh[0], used[0]) == (100, 0) and min(fresh[1], used[1]) > 0.05
sys.exit(0 if is_as_seen else "CHANGED")
PYTHON
