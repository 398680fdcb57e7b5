#!/usr/bin/env bash
# steering-vectors' `vector.apply(model, min_token_index=n)` around `generate`: steering from token n on, with n the
# prompt's length for the answer alone.
# Expected: tokens are counted in the text, so that all that are generated are steered, and that a cache, which `generate`
# keeps unless told otherwise, moves no logit by more than rounding.
# Seen (steering-vectors 0.12.2, transformers 4.57.6): the index is counted in each call of the model, and cached steps hold
# one token, number 0. With the prompt's length nothing is steered, logits are those of the plain model to the bit;
# with a smaller index, the rest of the prompt alone. use_cache=False steers as written. Nothing is said.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q steering-vectors==0.12.2 transformers==4.57.6 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys

import torch
import transformers
from steering_vectors import SteeringVector
from transformers import LlamaConfig, LlamaForCausalLM

print("steering-vectors", importlib.metadata.version("steering-vectors"), "transformers", transformers.__version__)
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=97, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
    bos_token_id=None, eos_token_id=None, pad_token_id=0,
)
model = LlamaForCausalLM(config).eval()
prompt = torch.randint(3, 97, (1, 6))
vector = SteeringVector({1: 3 * torch.randn(32)})


def logits(use_cache):
    """Logits of each of five generated tokens."""
    answer = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False, use_cache=use_cache,
        output_logits=True, return_dict_in_generate=True,
    )
    return torch.stack(answer.logits)[:, 0]


def farthest(one, other):
    return (one - other).abs().amax(-1)


plain = logits(use_cache=True)
moved = {}
for first in (0, 3, prompt.shape[1]):
    with vector.apply(model, min_token_index=first):
        cached, uncached = logits(use_cache=True), logits(use_cache=False)
    moved[first] = float(farthest(cached, plain).max()), float(farthest(uncached, plain)[1:].min())
    apart = float(farthest(cached, uncached).max())
    print(f"from token {first} on, of a prompt of 6: with the cache logits move by up to {moved[first][0]:.2f},")
    print(f"  without it each after the first by {moved[first][1]:.2f} and more; the two are up to {apart:.2f} apart")
    moved[first] += (apart,)
is_same_from_0 = moved[0][2] < 1e-4
is_lost_in_answer = moved[6][0] == 0 and moved[6][1] > 0.1
sys.exit(0 if is_same_from_0 and moved[3][2] > 0.01 and is_lost_in_answer else "CHANGED")
PYTHON
