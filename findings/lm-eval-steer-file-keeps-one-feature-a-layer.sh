#!/usr/bin/env bash
# lm-eval's `steered` model with a CSV of features of a sparse coder, two of them at the same layer (its columns:
# loader, action, sparse_model, hookpoint, feature_index, steering_coefficient, ...).
# Expected: each row steers, as rows at two layers do, or the second is refused.
# Seen (lm-eval 0.4.12, eai-sparsify 1.3.3): the last row of a layer steers alone, logits are to the bit those of a file
# with that row only, and nothing is said. `add`, the action of the docstring's own rows, is refused by an assertion
# for every sparse coder, since each comes with a bias.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q lm_eval==0.4.12 eai-sparsify==1.3.3 transformers==4.57.6 torch==2.13.0 pandas==2.3.3
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys

import torch
from lm_eval.models.hf_steered import SteeredModel
from sparsify import SparseCoder, SparseCoderConfig
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

print("lm-eval", importlib.metadata.version("lm_eval"), "sparsify", importlib.metadata.version("eai-sparsify"))
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
    bos_token_id=0, eos_token_id=1, pad_token_id=1,
)
LlamaForCausalLM(config).save_pretrained("model")
words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(50)}, unk_token="w2"))
PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w1").save_pretrained("model")
for layer in (0, 1):
    SparseCoder(32, SparseCoderConfig(num_latents=16, k=4)).save_to_disk(f"coders/layers.{layer}")
ids = torch.arange(5, 13)[None]
HEAD = "loader,action,sparse_model,hookpoint,feature_index,steering_coefficient,head_index,sae_id,description\n"


def logits(*rows, action="clamp"):
    """The model's logits under a file of rows, each a layer and a feature."""
    text = "".join(f"sparsify,{action},coders,layers.{layer},{feature},4.0,,,\n" for layer, feature in rows)
    with open("steer.csv", "w") as file:
        file.write(HEAD + text)
    return SteeredModel("model", steer_path="steer.csv", device="cpu")._model_call(ids)


first, last, both = logits((1, 3)), logits((1, 7)), logits((1, 3), (1, 7))
print("two features at one layer are as the last alone:", torch.equal(both, last), "- as the first:", torch.equal(both, first))
below, apart = logits((0, 3)), logits((0, 3), (1, 7))
print("features at two layers are as the last alone:", torch.equal(apart, last), "- as the first:", torch.equal(apart, below))
try:
    logits((1, 3), action="add")
    refused = False
except AssertionError as error:
    refused = True
    print("one feature, action add: AssertionError,", error)
is_last = torch.equal(both, last) and not torch.equal(both, first)
is_both = not torch.equal(apart, last) and not torch.equal(apart, below)
sys.exit(0 if is_last and is_both and refused else "CHANGED")
PYTHON
