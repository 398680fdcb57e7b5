#!/usr/bin/env bash
# `output_hidden_states` of Mamba and Mamba 2, from which tools read "the output of layer n" at n + 1.
# Expected: as Llama's: embeddings, each block's output but the last, the normed output of the last.
# Seen (transformers 5.19.0): as many entries, but no embeddings: entry 0 is block 0's output, entry n is block
# n's, and the normed output follows. An index that is right for Llama is one block off here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.19.0 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM, Mamba2Config, Mamba2ForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.manual_seed(0)

common = dict(vocab_size=97, hidden_size=32, num_hidden_layers=3)
heads = dict(num_heads=8, head_dim=8, n_groups=1, chunk_size=8)
models = [
    (LlamaForCausalLM(LlamaConfig(**common, num_attention_heads=4, intermediate_size=64)), "layers norm"),
    (MambaForCausalLM(MambaConfig(**common, state_size=8)), "layers norm_f"),
    (Mamba2ForCausalLM(Mamba2Config(**common, state_size=8, **heads)), "layers norm_f"),
]
ids = torch.randint(3, 97, (1, 6))
layouts = {}
for model, names in models:
    model.eval()
    blocks, norm = (getattr(model.base_model, name) for name in names.split())
    known = {"embeddings": model.get_input_embeddings()(ids)}

    def keep(name):
        def hook(_module, _args, output):
            known[name] = output if torch.is_tensor(output) else output[0]

        return hook

    for number, block in enumerate(blocks):
        block.register_forward_hook(keep(f"block {number}"))
    norm.register_forward_hook(keep("normed"))
    with torch.no_grad():
        states = model(ids, output_hidden_states=True, use_cache=False).hidden_states
    layouts[type(model).__name__] = [
        next(name for name, value in known.items() if torch.equal(value, state)) for state in states
    ]
    print(type(model).__name__, layouts[type(model).__name__])
usual = ["embeddings", "block 0", "block 1", "normed"]
mamba = ["block 0", "block 1", "block 2", "normed"]
sys.exit(0 if list(layouts.values()) == [usual, mamba, mamba] else "CHANGED")
PYTHON
