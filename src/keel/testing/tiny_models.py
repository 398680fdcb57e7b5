"""Random transformers models so small that a test can build one, and a tokenizer for them.

Real architectures, built from a config and a seed, on the CPU, in float32 and eval mode; they
answer nonsense. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from keel.errors import UsageError

TINY_FAMILIES = (
    "llama",
    "qwen3",
    "gemma2",
    "gemma3",
    "gemma3_vision",
    "mistral",
    "gpt2",
    "gpt_neox",
    "qwen3_moe",
    "deepseek_v4",
    "hy_v4",
    "glm5_next",
    "qwen4_exp",
    "gemma3n",
)

_WINDOW = 16
"""Tokens that a sliding layer sees: few, so that short tests reach past it."""

_STREAMS = 3
"""Parallel residual streams, where a family has several."""

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


def tiny_model(family: str, *, layers: int = 4, hidden: int = 32, seed: int = 0) -> Any:
    """A random model of a family in `TINY_FAMILIES`; the same arguments build the same weights.

    `hidden` is a multiple of 8. The vocabulary is that of `tiny_tokenizer`.
    Raises UsageError for an unknown family.
    """
    import torch

    if family not in _BUILDERS:
        raise UsageError(f"no tiny model {family!r}; choose one of {', '.join(TINY_FAMILIES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _BUILDERS[family](layers, hidden)
    return model.eval()


def save_tiny_model(folder: str | Path, family: str, **shape: int) -> Path:
    """A folder with the tiny model (safetensors) and its tokenizer, as a hub download would be.

    `shape` is passed on to `tiny_model`.
    """
    folder = Path(folder)
    tiny_model(family, **shape).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


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


def _shape(layers: int, hidden: int) -> dict[str, Any]:
    """Settings that most configs share: grouped-query attention, four heads over two."""
    return {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "max_position_embeddings": 4096,
        **_tokens(),
    }


def _tokens() -> dict[str, Any]:
    # The usual scale of 0.02 leaves so small a model all but blind to its input.
    return {
        "bos_token_id": None,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "initializer_range": 0.2,
    }


def _language_model(
    config: str, model: str, **extra: Callable[[int, int], Any]
) -> Callable[[int, int], Any]:
    """A builder for a model class whose config takes `_shape`, and `extra` of layers and width."""

    def build(layers: int, hidden: int) -> Any:
        import transformers

        settings = {name: of_shape(layers, hidden) for name, of_shape in extra.items()}
        shaped = getattr(transformers, config)(**{**_shape(layers, hidden), **settings})
        return getattr(transformers, model)(shaped)

    return build


# Layers that see everything after layers that see a window, as in Gemma.
_GEMMA: dict[str, Callable[[int, int], Any]] = {
    "layer_types": lambda layers, _: [
        ("sliding_attention", "full_attention")[n % 2] for n in range(layers)
    ],
    "sliding_window": lambda *_: _WINDOW,
    "query_pre_attn_scalar": lambda _, hidden: hidden // 4,
}


def _gemma3_vision(layers: int, hidden: int) -> Any:
    """The language model one level further down, beside a vision tower."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
    )
    last = VOCABULARY_SIZE - 1  # three ids that no text is tokenised to
    config = Gemma3Config(
        text_config=_BUILDERS["gemma3"](layers, hidden).config,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=last,
        image_token_id=last,
        boi_token_index=last - 1,
        eoi_token_index=last - 2,
        **_tokens(),
    )
    return Gemma3ForConditionalGeneration(config)


def _gpt2(layers: int, hidden: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY_SIZE,
        n_embd=hidden,
        n_layer=layers,
        n_head=4,
        n_positions=4096,
        **_tokens(),
    )
    return GPT2LMHeadModel(config)


def _gpt_neox(layers: int, hidden: int) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=4096,
        **_tokens(),
    )
    return GPTNeoXForCausalLM(config)


# Few experts, low ranks, and an indexer that reads all tokens of a short text.
_SPARSE: dict[str, Callable[[int, int], Any]] = {
    "moe_intermediate_size": lambda _, hidden: hidden,
    "n_routed_experts": lambda *_: 4,
    "num_experts_per_tok": lambda *_: 2,
    "q_lora_rank": lambda *_: 16,
    "index_n_heads": lambda *_: 2,
    "index_head_dim": lambda *_: 16,
    "index_topk": lambda *_: 64,
    "hc_mult": lambda *_: _STREAMS,
}

# Latent attention: keys and values from a low rank, heads with and without rotary positions.
_LATENT: dict[str, Callable[[int, int], Any]] = {
    "num_key_value_heads": lambda *_: 4,
    "kv_lora_rank": lambda *_: 16,
    "qk_nope_head_dim": lambda _, hidden: hidden // 4,
    "qk_rope_head_dim": lambda _, hidden: hidden // 4,
    "v_head_dim": lambda _, hidden: hidden // 4,
}


def _linear_and_full(layers: int, _hidden: int) -> list[str]:
    return [("linear_attention", "full_attention")[n % 2] for n in range(layers)]


def _glm5_next(layers: int, hidden: int) -> Any:
    """Three streams under the language model's part of a vision model."""
    from transformers import (
        Glm5NextConfig,
        Glm5NextForConditionalGeneration,
        Glm5NextTextConfig,
        Glm5NextVisionConfig,
    )

    sizes = {name: of_shape(layers, hidden) for name, of_shape in {**_SPARSE, **_LATENT}.items()}
    text = {
        **_shape(layers, hidden),
        **sizes,
        "head_dim": 0,
        "qk_rope_head_dim": 0,
        "linear_head_dim": hidden // 4,
        "linear_num_heads": 4,
        "index_kpool": 2,
        "layer_types": _linear_and_full(layers, hidden),
    }
    vision = Glm5NextVisionConfig(
        depth=1,
        hidden_size=16,
        num_heads=2,
        intermediate_size=32,
        image_size=28,
        out_hidden_size=hidden,
        projection_intermediate_size=32,
    )
    kinds = ("video_end", "video_start", "image_end", "image_start", "video", "image")
    ids = {f"{kind}_token_id": VOCABULARY_SIZE - 1 - n for n, kind in enumerate(kinds)}
    config = Glm5NextConfig(text_config=Glm5NextTextConfig(**text), vision_config=vision, **ids)
    return Glm5NextForConditionalGeneration(config)


_BUILDERS: dict[str, Callable[[int, int], Any]] = {
    "llama": _language_model("LlamaConfig", "LlamaForCausalLM"),
    "qwen3": _language_model("Qwen3Config", "Qwen3ForCausalLM"),
    "gemma2": _language_model("Gemma2Config", "Gemma2ForCausalLM", **_GEMMA),
    "gemma3": _language_model("Gemma3TextConfig", "Gemma3ForCausalLM", **_GEMMA),
    "gemma3_vision": _gemma3_vision,
    "mistral": _language_model(
        "MistralConfig", "MistralForCausalLM", sliding_window=lambda *_: None
    ),
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "qwen3_moe": _language_model(
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        num_experts=lambda *_: 4,
        num_experts_per_tok=lambda *_: 2,
        moe_intermediate_size=lambda _, hidden: hidden,
    ),
    "deepseek_v4": _language_model(
        "DeepseekV4Config",
        "DeepseekV4ForCausalLM",
        **_SPARSE,
        num_key_value_heads=lambda *_: 1,
        head_dim=lambda *_: 16,
        o_lora_rank=lambda *_: 16,
        o_groups=lambda *_: 2,
        sliding_window=lambda *_: _WINDOW,
        # Its compressing layers count padding, so that a padded row gives other logits than alone.
        layer_types=lambda layers, _: ["sliding_attention"] * layers,
    ),
    "hy_v4": _language_model("HYV4Config", "HYV4ForCausalLM", **_SPARSE, **_LATENT),
    "glm5_next": _glm5_next,
    "qwen4_exp": _language_model(
        "Qwen4ExpTextConfig",
        "Qwen4ExpForCausalLM",
        layer_types=_linear_and_full,
        moe_intermediate_size=lambda _, hidden: hidden,
        shared_expert_intermediate_size=lambda _, hidden: hidden,
        num_experts=lambda *_: 4,
        num_experts_per_tok=lambda *_: 2,
        hc_count=lambda *_: _STREAMS,
        hc_lowrank=lambda *_: 8,
        linear_key_head_dim=lambda *_: 8,
        linear_value_head_dim=lambda *_: 8,
        linear_num_key_heads=lambda *_: 2,
        linear_num_value_heads=lambda *_: 4,
        indexer_n_heads=lambda *_: 2,
        indexer_kv_heads=lambda *_: 1,
        indexer_head_dim=lambda *_: 8,
        indexer_budget=lambda *_: 16,
        indexer_compress_ratio=lambda *_: 4,
    ),
    "gemma3n": _language_model(
        "Gemma3nTextConfig",
        "Gemma3nForCausalLM",
        layer_types=_GEMMA["layer_types"],
        sliding_window=_GEMMA["sliding_window"],
        vocab_size_per_layer_input=lambda *_: VOCABULARY_SIZE,
        hidden_size_per_layer_input=lambda *_: 8,
        laurel_rank=lambda *_: 4,
        num_kv_shared_layers=lambda *_: 1,
        altup_num_inputs=lambda *_: _STREAMS,
        activation_sparsity_pattern=lambda layers, _: [0.0] * layers,
    ),
}
