"""Tiny tokenizers of the kinds that open models have: where they put a space differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, UnigramTrainer

_LETTERS = ["▁", "\n", *map(chr, range(33, 127))]
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "hello there good day and you very well yes no ASSISTANT: USER: [INST] hello [/INST] good </s>",
    "User: hello there Assistant: good day User: and you Assistant: very well indeed",
    "good good day day very very well well yes yes no no hello hello Assistant: Assistant: User:",
] * 8


def _tokenizer(model: Any, trainer: Any, *, pre: Any, decoder: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(model)
    made.pre_tokenizer = pre
    made.decoder = decoder
    made.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=SPECIAL[3:],
        clean_up_tokenization_spaces=False,
    )


def _bpe_trainer() -> Any:
    return BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=_LETTERS,
        show_progress=False,
    )


def metaspace(scheme: str) -> Callable[[], Any]:
    """SentencePiece's BPE as transformers 5 writes it: spaces belong to the word behind them."""

    def make() -> Any:
        return _tokenizer(
            models.BPE(),
            _bpe_trainer(),
            pre=pre_tokenizers.Metaspace(prepend_scheme=scheme),
            decoder=decoders.Metaspace(prepend_scheme=scheme),
        )

    return make


def llama() -> Any:
    """Llama 2's own: the normalizer writes the spaces, and nothing parts the words."""
    made = metaspace("always")()
    inner = made.backend_tokenizer
    inner.pre_tokenizer = None
    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    inner.normalizer = normalizers.Sequence(spaces)
    parts = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(parts)
    return made


def unigram() -> Any:
    """T5's and Baichuan's kind."""
    trainer = UnigramTrainer(
        vocab_size=200,
        special_tokens=[*SPECIAL, "<unk>"],
        unk_token="<unk>",
        initial_alphabet=_LETTERS,
        show_progress=False,
    )
    return _tokenizer(
        models.Unigram(),
        trainer,
        pre=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )


def byte_level(*, trim_offsets: bool) -> Callable[[], Any]:
    """GPT-2's; some leave a word's space out of its offsets."""

    def make() -> Any:
        made = _tokenizer(
            models.BPE(),
            BpeTrainer(
                vocab_size=500,
                special_tokens=SPECIAL,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
            pre=pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoder=decoders.ByteLevel(),
        )
        made.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
        return made

    return make


KINDS: dict[str, Callable[[], Any]] = {
    "metaspace, always": metaspace("always"),
    "metaspace, first": metaspace("first"),
    "metaspace, never": metaspace("never"),
    "llama": llama,
    "unigram": unigram,
    "byte level": byte_level(trim_offsets=False),
    "byte level, trimmed": byte_level(trim_offsets=True),
}
