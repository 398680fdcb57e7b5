#!/usr/bin/env bash
# Gemma 3n: `hidden_states[-1]` of `output_hidden_states`.
# Expected: the last hidden state that the head reads, [rows, tokens, hidden], as in other families.
# Seen (transformers 5.19.0): every entry is [4, rows, tokens, hidden]: four parallel streams, the last entry too, from
# before they are joined and normed. The first axis is no batch axis; code that takes `hidden_states[-1][0]` for
# the first row's gets the first stream of all rows, without an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.19.0 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import transformers
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.manual_seed(0)

config = Gemma3nTextConfig(
    vocab_size=97, vocab_size_per_layer_input=97, hidden_size=32, hidden_size_per_layer_input=8,
    num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8, intermediate_size=64,
    num_kv_shared_layers=0, laurel_rank=4, activation_sparsity_pattern=None,
    layer_types=["full_attention"] * 3, pad_token_id=0,
)
model = Gemma3nForCausalLM(config).eval()
ids = torch.randint(3, 97, (2, 6))
with torch.no_grad():
    states = model(ids, output_hidden_states=True, use_cache=False).hidden_states
    last = model.model(ids, use_cache=False).last_hidden_state
shapes = [tuple(state.shape) for state in states]
print("hidden_states", shapes, "last_hidden_state", tuple(last.shape))
is_last_one_of_the_streams = any(torch.allclose(stream, last, atol=1e-4) for stream in states[-1])
print("one of the last entry's streams is the last hidden state:", is_last_one_of_the_streams)
is_as_seen = set(shapes) == {(4, 2, 6, 32)} and last.shape == (2, 6, 32)
sys.exit(0 if is_as_seen and not is_last_one_of_the_streams else "CHANGED")
PYTHON
