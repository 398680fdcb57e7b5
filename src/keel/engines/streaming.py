"""Text of an answer piece by piece, from its tokens one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class TextStream:
    """Hands on each row's text as it grows, holding back characters whose bytes are incomplete."""

    def __init__(self, tokenizer: Any, on_text: Callable[[int, str], None]) -> None:
        self._tokenizer = tokenizer
        self._on_text = on_text
        self._tokens: dict[int, list[int]] = {}
        self._said: dict[int, int] = {}

    def __call__(self, row: int, token: int) -> None:
        """Take one more token of a row."""
        tokens = self._tokens.setdefault(row, [])
        tokens.append(token)
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        said = self._said.get(row, 0)
        if len(text) > said and not text.endswith("�"):
            self._said[row] = len(text)
            self._on_text(row, text[said:])
