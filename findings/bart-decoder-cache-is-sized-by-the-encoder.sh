#!/usr/bin/env bash
# A decoder-only Bart or mBART (`BartForCausalLM`) whose `encoder_layers` differ from its `decoder_layers`.
# Expected: the cache that `generate` makes has a layer per decoder block; there is no encoder.
# Seen (transformers 5.19.0): it has a layer per block of the encoder that does not exist, since
# `config.num_hidden_layers` is `encoder_layers`. Memory estimates and tools that go by either are off.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.19.0 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import transformers
from transformers import BartConfig, BartForCausalLM, MBartConfig, MBartForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.manual_seed(0)

shape = dict(
    vocab_size=97, d_model=32, encoder_layers=5, decoder_layers=2, encoder_attention_heads=4,
    decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
)
ids = torch.randint(3, 97, (1, 6))
seen = []
for config, kind in ((BartConfig, BartForCausalLM), (MBartConfig, MBartForCausalLM)):
    model = kind(config(**shape)).eval()
    cache = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False,
        return_dict_in_generate=True,
    ).past_key_values
    filled = sum(layer.keys is not None for layer in cache.layers)
    seen.append((len(model.get_decoder().layers), len(cache.layers), filled))
    print(kind.__name__, "decoder blocks, layers of the cache, those ever filled:", seen[-1])
sys.exit(0 if seen == [(2, 5, 2), (2, 5, 2)] else "CHANGED")
PYTHON
