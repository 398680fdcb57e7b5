#!/usr/bin/env bash
# A BPE vocabulary without an unknown token drops characters that it does not have.
# Expected: the tokens behind a dropped character keep their offsets into the text.
# Seen (tokenizers 0.23.3): they are shifted to the left by it, to the end of the word; where the dropped character takes
# two bytes, two tokens even get one offset. Spans cut out of the text by offsets are then wrong without a sign.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers

print("tokenizers", tokenizers.__version__)
tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate("abcd")}, []))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
seen = {}
for text in ("abcd abcd", "abXcd abcd", "ab\u00e9cd abcd"):
    encoded = tokenizer.encode(text)
    seen[text] = [text[start:stop] for start, stop in encoded.offsets]
    print(text, "->", encoded.tokens, "at", encoded.offsets, "which are", seen[text])
expected = [
    ["a", "b", "c", "d", "a", "b", "c", "d"],
    ["a", "b", "X", "c", "a", "b", "c", "d"],
    ["a", "b", "\u00e9", "\u00e9", "a", "b", "c", "d"],
]
sys.exit(0 if list(seen.values()) == expected else "CHANGED")
PYTHON
