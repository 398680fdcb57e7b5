#!/usr/bin/env bash
# RWKV, several rows: a step of one token that goes on from the state of the tokens before.
# Expected: logits [rows, 1, vocabulary], equal to those of the whole text.
# Seen (transformers 5.19.0): logits [rows, rows, vocabulary]. The last of them, which `generate` reads,
# is wrong by a quarter of the logits' size and more; a row alone is right to 1e-6.
# So batched generation of RWKV differs from that of each prompt alone, without an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.19.0 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import transformers
from transformers import RwkvConfig, RwkvForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.manual_seed(0)

config = RwkvConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, context_length=64)
model = RwkvForCausalLM(config).eval()
for weight in model.parameters():
    torch.nn.init.normal_(weight, std=0.3)
ids = torch.randint(3, 97, (3, 6))


@torch.no_grad()
def error_of_step(rows):
    whole = model(rows, use_cache=False).logits[:, -1]
    state = model(rows[:, :-1], use_cache=True).state
    step = model(rows[:, -1:], state=state, use_cache=True).logits
    share = (step[:, -1] - whole).abs().max() / whole.abs().max()
    print(f"{len(rows)} row(s): logits of the step {tuple(step.shape)}, off by {share:.1e} of the largest")
    return tuple(step.shape), float(share)


alone, together = error_of_step(ids[:1]), error_of_step(ids)
is_as_seen = alone[1] < 1e-5 and together[0] == (3, 3, 97) and together[1] > 0.1
sys.exit(0 if is_as_seen else "CHANGED")
PYTHON
