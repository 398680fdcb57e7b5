#!/usr/bin/env bash
# A Moshi decoder whose config says `sliding_window: 8`, run over 24 tokens in one pass and token by token.
# Expected: the same logits; a token sees the 8 before it in both.
# Seen (transformers 5.19.0): the one pass lets the last token see the first (its mask has no window), while
# cached steps do not (the cache keeps 8): logits past the window differ by up to 0.08, where their sd is 0.12.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.19.0 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import transformers
from transformers import MoshiConfig, MoshiForCausalLM

print("transformers", transformers.__version__)
torch.manual_seed(0)
config = MoshiConfig(
    vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
    ffn_dim=64, sliding_window=8, max_position_embeddings=256,
)
model = MoshiForCausalLM(config).eval()
tokens = torch.randint(0, 60, (1, 24))
changed = tokens.clone()
changed[0, 0] = (changed[0, 0] + 1) % 60


@torch.no_grad()
def in_one_pass(ids):
    return model(ids, use_cache=True).logits[0]


@torch.no_grad()
def by_steps(ids):
    cache, steps = None, []
    for n in range(ids.shape[1]):
        output = model(ids[:, n : n + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        steps.append(output.logits[0, 0])
    return torch.stack(steps)


def farthest(one, other):
    return (one - other).abs().amax(-1)


moved_in_one_pass = farthest(in_one_pass(tokens), in_one_pass(changed))[-1].item()
moved_by_steps = farthest(by_steps(tokens), by_steps(changed))[-1].item()
apart = farthest(in_one_pass(tokens), by_steps(tokens))
print(f"another first token moves the last one's logits by {moved_in_one_pass:.4f} in one pass,")
print(f"by {moved_by_steps:.4f} step by step; the two differ by {apart[:8].max():.1e} inside the window")
print(f"and by up to {apart[8:].max():.3f} past it (logits span {in_one_pass(tokens).std():.3f} sd)")
same_inside, differ_past = apart[:8].max() < 1e-5, apart[8:].max() > 1e-2
sys.exit(0 if moved_in_one_pass > 1e-5 > moved_by_steps and same_inside and differ_past else "CHANGED")
PYTHON
