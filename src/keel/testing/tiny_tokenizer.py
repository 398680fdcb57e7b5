"""A small tokenizer built in code, so that tests need no network. Knows nothing of models."""

from __future__ import annotations

from typing import Any

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
"""The special tokens, ids 0, 1 and 2. There is no beginning-of-sequence token."""

VOCABULARY_SIZE = 320

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_WORDS = (
    "system", "user", "assistant", " the", " and", " you", " are", " is", " of", " to", " in",
    " what", " who", " that", " ghost", " pirate", " model", "ing", "er",
)  # fmt: skip


def tiny_tokenizer() -> Any:
    """A fast byte-level BPE tokenizer with a ChatML template: any text survives the round trip.

    Its few merges are enough for re-tokenised text to differ from sampled tokens, as it does with
    real ones. Offsets count characters of the text.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_bpe(),
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[START],
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def _byte_level_bpe() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces, merges = _merges()
    tokens = [PAD, START, END, *alphabet, *pieces]
    tokens += [f"<|unused_{n}|>" for n in range(VOCABULARY_SIZE - len(tokens))]
    tokenizer = Tokenizer(models.BPE({t: n for n, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([PAD, START, END])
    return tokenizer


def _merges() -> tuple[list[str], list[tuple[str, str]]]:
    """The pieces that build the known words from left to right, and the merges that make them."""
    pieces: dict[str, tuple[str, str]] = {}
    for word in _WORDS:
        letters = word.replace(" ", "Ġ")
        for end in range(2, len(letters) + 1):
            pieces.setdefault(letters[:end], (letters[: end - 1], letters[end - 1]))
    return list(pieces), list(pieces.values())
