#!/usr/bin/env bash
# CamemBERT and Data2Vec-text as decoders (`is_decoder=True`), as RoBERTa: their first token stands at
# position padding_idx + 1, by which the weights were trained.
# Expected: `generate` predicts its first token from the logits that a plain forward pass gives.
# Seen (transformers 5.19.0): `generate` counts positions from 0 and hands them over, so that every token is
# read at another position (0, 1, 2 instead of 2, 3, 4): the logits differ by about a percent.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.19.0 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import transformers
from transformers import CamembertConfig, CamembertForCausalLM, Data2VecTextConfig, Data2VecTextForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.manual_seed(0)

shape = dict(
    vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
    max_position_embeddings=64, is_decoder=True, pad_token_id=1, bos_token_id=0, eos_token_id=2,
)
ids = torch.randint(3, 97, (1, 6))
is_as_seen = True
for config, kind in (
    (CamembertConfig, CamembertForCausalLM),
    (Data2VecTextConfig, Data2VecTextForCausalLM),
):
    model = kind(config(**shape)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    positions = []
    table = next(m for n, m in model.named_modules() if n.endswith("position_embeddings"))
    table.register_forward_pre_hook(lambda _, args: positions.append(args[0][0].tolist()))
    with torch.no_grad():
        plain = model(ids).logits[:, -1]
        first = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False,
            return_dict_in_generate=True, output_logits=True,
        ).logits[0]
    share = float((first - plain).abs().max() / plain.abs().max())
    print(f"{kind.__name__}: positions {positions[0]} and {positions[1]}, logits differ by {share:.1%} of the largest")
    is_as_seen &= positions == [[2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5]] and share > 1e-3
sys.exit(0 if is_as_seen else "CHANGED")
PYTHON
