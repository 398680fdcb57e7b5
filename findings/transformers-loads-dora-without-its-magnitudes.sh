#!/usr/bin/env bash
# AutoModelForCausalLM.from_pretrained on a folder that peft saved a DoRA adapter to.
# Expected: the logits of the adapted model that was saved, as PeftModel.from_pretrained gives them, or an error.
# Seen (transformers 5.19.0, peft 0.21.2): other logits, and nothing is raised. The load report lists the magnitudes twice,
# under peft's name as unexpected and under transformers' as missing and newly initialized. A plain LoRA comes out right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.19.0 peft==0.21.2 torch==2.13.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys

import peft
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "peft")))
torch.manual_seed(0)
config = LlamaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
LlamaForCausalLM(config).save_pretrained("base")
ids = torch.arange(5, 17)[None]
common = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
KINDS = {
    "LoRA": peft.LoraConfig(r=4, **common),
    "DoRA": peft.LoraConfig(r=4, use_dora=True, **common),
}


@torch.no_grad()
def logits(model):
    return model.eval()(ids).logits


def apart(kind):
    """How far the logits of a saved adapter lie from its own: by peft, and by transformers."""
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained("base"), KINDS[kind])
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) / 4
    adapted.save_pretrained(kind)
    own = logits(adapted)
    by_peft = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), kind)
    by_transformers = AutoModelForCausalLM.from_pretrained(kind)
    return [float((logits(model) - own).abs().max()) for model in (by_peft, by_transformers)]


seen = {kind: apart(kind) for kind in KINDS}
for kind, (by_peft, by_transformers) in seen.items():
    print(f"{kind}: logits differ by {by_peft:.1g} from peft, by {by_transformers:.1g} from transformers")
is_right = all(by_peft < 1e-4 for by_peft, _ in seen.values()) and seen["LoRA"][1] < 1e-4
sys.exit(0 if is_right and seen["DoRA"][1] > 1e-2 else "CHANGED")
PYTHON
