#!/usr/bin/env bash
# An added token that is matched in normalized text, in a SentencePiece-like tokenizer (`Prepend("▁")`, spaces to ▁).
# Expected: `<T>` is one token wherever it stands.
# Seen (tokenizers 0.23.3): the token's own text is normalized, too, and gets the ▁ in front, so that it is met at the start
# of a text and behind a space only; inside of a word it falls into pieces. With normalized=False it is met always.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import tokenizers
from tokenizers import AddedToken, Tokenizer, models, normalizers

print("tokenizers", tokenizers.__version__)


def met(is_normalized):
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate("\u2581ab<T>")}, []))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.add_tokens([AddedToken("<T>", normalized=is_normalized)])
    texts = ("<T>a", "a <T>", "a<T>", "<T><T>")
    mine = tokenizer.token_to_id("<T>")
    counts = {text: tokenizer.encode(text).ids.count(mine) for text in texts}
    print("normalized" if is_normalized else "as it is  ", counts)
    return list(counts.values())


sys.exit(0 if (met(True), met(False)) == ([1, 1, 0, 1], [1, 1, 1, 2]) else "CHANGED")
PYTHON
