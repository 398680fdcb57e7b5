"""Makes a folder that every engine loads of a GGUF file: config, weights in bfloat16, tokenizer.

transformers reads the weights. Its tokenizers leave out what llama.cpp's files say about them, so
that is put back: how text is split before merges, spaces in front, the token that begins a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = 3
"""Of what `convert` makes; a folder of another version is made again."""

_CONTRACTIONS = r"'s|'t|'re|'ve|'m|'ll|'d"
_GPT2 = rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
_WORDS = (
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's and Qwen 2's, which differ in how many digits stay together."""
_DEEPSEEK = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!-/:-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")

_SPLITS: dict[tuple[str, ...], str] = {
    (_GPT2,): "gpt-2 phi-2 mpt olmo jais trillion granite-docling gigachat a.x-4.0 mellum exaone4",
    (r"\p{N}", _GPT2): "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
    (_WORDS % "{1,3}",): (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 dbrx smaug-bpe "
        "chatglm-bpe glm4 glm5"
    ),
    (_WORDS % "",): "qwen2 deepseek-r1-qwen kormo megrez stablelm2 hunyuan solar-open grok-2",
    _DEEPSEEK: "deepseek-v3 hunyuan-dense joyai-llm",
    _FALCON: "falcon",
}
"""How byte-level vocabularies split a text before they merge, and llama.cpp's names of each way.
One pattern after another splits what those before it left."""

_READ_BY_TRANSFORMERS = frozenset({"tekken", "gpt-4o", "llama4", "qwen35", "kanana2", "minimax-m2"})
_WHOLE_WORDS_FIRST = frozenset(
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 tekken glm4 glm5".split()
)
"""A word that is a token itself is taken as it is, without merging."""
_BEGINS_BY_DEFAULT = _WHOLE_WORDS_FIRST - {"glm4", "glm5"}
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
"""A tokenizer's special tokens, and what llama.cpp calls their ids."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of its tokenizer, beside the tokens."""

    fields: Mapping[str, Any]

    @classmethod
    def of(cls, source: Path) -> Vocabulary:
        """Read from the file's head."""
        from gguf import GGUFReader

        prefix, lists = "tokenizer.ggml.", ("tokens", "scores", "token_type", "merges")
        fields = GGUFReader(source).fields
        return cls(
            {
                name.removeprefix(prefix): field.contents()
                for name, field in fields.items()
                if name.startswith(prefix) and not name.endswith(lists)
            }
        )

    @property
    def is_byte_level(self) -> bool:
        """Whether tokens are bytes merged (GPT-2), not text with its spaces (SentencePiece)."""
        return self.fields.get("model") == "gpt2"

    @property
    def split_name(self) -> str:
        """llama.cpp's name of how text is split before merges."""
        return str(self.fields.get("pre", "default"))

    @property
    def splits(self) -> tuple[str, ...] | None:
        """Patterns that split a text; None where Keel knows none of that name."""
        named = (
            patterns for patterns, names in _SPLITS.items() if self.split_name in names.split()
        )
        return next(named, None)

    @property
    def begins_texts(self) -> bool:
        """Whether a token stands before every text."""
        default = self.fields.get("model") == "llama" or self.split_name in _BEGINS_BY_DEFAULT
        return bool(self.fields.get("add_bos_token", default))

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer."""
        return sorted({self.fields[name] for name in _ENDS if name in self.fields})

    @property
    def caveat(self) -> str:
        """What the tokenizer may do otherwise than llama.cpp's, in a sentence; empty if nothing."""
        is_known = self.splits is not None or self.split_name in _READ_BY_TRANSFORMERS
        if not self.is_byte_level or is_known:
            return ""
        return (
            f"its tokenizer splits text in a way that Keel does not know ({self.split_name!r}), so "
            "numbers and signs may become other tokens than in llama.cpp; the original model's "
            "folder keeps them"
        )


def convert(source: Path, folder: Path) -> str:
    """Write a GGUF file as a folder of config, bfloat16 safetensors and tokenizer; its caveat.

    transformers refuses to save a model that it loaded from GGUF, so the model is rebuilt from
    its config and the state dict copied.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    vocabulary = Vocabulary.of(source)
    loaded = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    # Without what belongs to the GGUF file: the weights are no longer packed.
    fields = loaded.config.to_dict()
    for name in ("quantization_config", "_name_or_path"):
        fields.pop(name, None)
    config = loaded.config.__class__(**fields)
    with torch.device("meta"):
        rebuilt = type(loaded)(config)
    rebuilt.load_state_dict(loaded.state_dict(), assign=True)
    rebuilt.tie_weights()
    if rebuilt.can_generate():
        rebuilt.generation_config = loaded.generation_config
        if len(vocabulary.ends) > 1:
            rebuilt.generation_config.eos_token_id = vocabulary.ends
    rebuilt.to(torch.bfloat16).save_pretrained(folder)
    read_tokenizer(source, vocabulary).save_pretrained(folder)
    return vocabulary.caveat


def read_tokenizer(source: Path, vocabulary: Vocabulary) -> Any:
    """The file's tokenizer, which splits texts and begins them as llama.cpp's does."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    read = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    backend = read.backend_tokenizer
    if vocabulary.is_byte_level:
        _split_by(backend, vocabulary.splits)
        backend.model.ignore_merges = vocabulary.split_name in _WHOLE_WORDS_FIRST
    elif vocabulary.fields.get("model") == "llama":
        _mark_spaces(backend, is_prefixed=bool(vocabulary.fields.get("add_space_prefix", True)))
    # By the file: before transformers 5.18 the token that begins a text was read as its end, too.
    special = {
        name: backend.id_to_token(vocabulary.fields[key])
        if key in vocabulary.fields
        else getattr(read, name)
        for name, key in _SPECIAL.items()
    }
    _begin(backend, special["bos_token"] if vocabulary.begins_texts else None)
    # Not as the class that transformers took it for, which would set it up anew when it is loaded.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=read.chat_template,
        clean_up_tokenization_spaces=False,
        **special,
    )


def _split_by(backend: Any, patterns: Sequence[str] | None) -> None:
    from tokenizers import Regex, pre_tokenizers

    if patterns is None:
        return
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, to_bytes])


def _mark_spaces(backend: Any, *, is_prefixed: bool) -> None:
    """Spaces become ▁, one more in front where the file says so, and nothing is split there."""
    from tokenizers import normalizers

    prefix = [normalizers.Prepend("▁")] if is_prefixed else []
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = None


def _begin(backend: Any, token: str | None) -> None:
    from tokenizers import processors

    start = f"{token} " if token else ""
    special = [(token, backend.token_to_id(token))] if token else []
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start}$A", pair=f"{start}$A {start}$B:1", special_tokens=special
    )
