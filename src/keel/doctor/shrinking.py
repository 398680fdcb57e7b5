"""A tiny random model of any type that transformers has, made from the type's default config.

Sizes are known by the names of their settings, in nested configs too, so that a type nobody has
heard of can be built. What a type's shape asks for beyond that stands in `_PARTICULARS`.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keel.errors import ModelLoadError, UsageError
from keel.words import first_line

LAYERS, HIDDEN, HEADS, HEAD_SIZE = 4, 64, 4, 16
VOCABULARY_SIZE = 320
"""That of `keel.testing.tiny_tokenizer`."""
_VOCABULARY = r".*vocab_size.*"
_WINDOW = 16
"""Tokens that a sliding layer sees, or a chunk has: few, so that short tests reach past them."""

_WIDTHS: tuple[tuple[str, int], ...] = (
    (r"qk_head_dim", 2 * HEAD_SIZE),
    (r".*head_?dim|head_size|attention_head_size|dim_head|.*d_head|d_kv|kv_channels", HEAD_SIZE),
    (r".*hidden_(size|dim).*|d_model|n_embd|.*(embed|embedding|emb|output|input)_dim", HIDDEN),
    (r".*embedding_size|width|lru_width|word_embed_proj_dim|projection_dim", HIDDEN),
    (r"output_channels", HIDDEN),
    (r".*intermediate.*size.*|.*ffn.*|d_ff|dff|dim_ff|mlp_dim|d_inner", 2 * HIDDEN),
    (r"share_expert_dim|feed_forward_size|mamba_d_ssm", 2 * HIDDEN),
)
_SIZES: tuple[tuple[str, int], ...] = (
    (_VOCABULARY + r"|encoder_hash_byte_group_vocab|codebook_size|num_centroids", VOCABULARY_SIZE),
    (r"num_embeddings", VOCABULARY_SIZE),
    (r"num_hidden_layers|n_layers?|num_layers|num_(de|en)coder_layers", LAYERS),
    (r"(de|en)coder_layers|num_blocks", LAYERS),
    (r"depth|conf_num_hidden_layers|layers|vision_layers|num_global_layers", 2),
    (r"linear_num_key_heads", 2),
    (r"num_linear_heads|linear_num_(value_)?heads|lightning_.*heads", HEADS),
    (r"(.*num_)?attention_heads|.*_attention_heads|n_heads?|num_heads|head_num", HEADS),
    # So many that hardly any two scores are 0 behind their ReLU: topk takes either, by chance.
    (r"index_n_heads", 64),
    *_WIDTHS,
    (r"num_experts_per_tok(en)?|.*top_k_experts|moe_top_?k|moe_k", 2),
    (r"num_(local_|moe_)?experts|n_(routed_)?experts|moe_num_experts|zero_expert_num", 4),
    (r"n_group|topk_group|num_expert_group", 1),
    (r".*_rank", 8),
    (r"mamba_d_state|state_size|ssm_state_size", 8),
    (r"sliding_window|attention_window_size|attention_chunk_size|(mamba_)?chunk_size", _WINDOW),
    (r"index_topk", _WINDOW),
)
_KEY_HEADS = (
    r"(swa_)?num_key_value_heads|n(um)?_kv_heads|num_query_groups|num_global_key_value_heads"
)
_IDS = r".*_(token_)?(id|index)"
_LENGTHS = r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length"
_UNSET = {
    "head_dim": HEAD_SIZE,
    "num_experts_per_tok": 2,
    "n_routed_experts": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_key_value_heads": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
}
"""Settings that some default configs leave at None though their models need a number."""

_DROPPED = object()
"""A setting that the config is to work out by itself."""
_HYBRID = ["linear_attention", "full_attention"] * 2
_ZAMBA: dict[str, Any] = {
    "layers_block_type": ["linear_attention", "hybrid"] * 2,
    **dict.fromkeys(
        ("layer_types", "attention_hidden_size", "attention_head_dim", "head_dim", "kv_channels"),
        _DROPPED,
    ),
    "mamba_headdim": _DROPPED,
    "hybrid_layer_ids": _DROPPED,
}
_SECTIONS = [16, 24, 24]
"""How many rotated pairs of dimensions belong to time, height and width."""
_SPARSE_INDEX = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": HEAD_SIZE,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": _SECTIONS}
_ROPE_PER_KIND = {"full_attention": _ROPE, "sliding_attention": _ROPE}
_GEMMA4 = {"global_head_dim": 2 * HEAD_SIZE}
_GEMMA4_EXPERTS = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
_IMAGE_CODES = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1}

_PARTICULARS: dict[str, dict[str, Any]] = {
    "bamba": {
        "mamba_n_heads": 8,
        "attn_layer_indices": [1, 3],
        "layer_types": _DROPPED,
        "layers_block_type": _DROPPED,
    },
    "chameleon": {"vocabulary_map": {"<image>": VOCABULARY_SIZE - 1}, "vq_config": _IMAGE_CODES},
    "codegen": {"rotary_dim": 8},
    "cohere_compass": {"text_config": {"rope_parameters": _ROPE_PER_KIND}},
    "cohere_compass_text": {"rope_parameters": _ROPE_PER_KIND},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", *["sparse"] * 3]}},
    "diffusion_gemma": {"text_config": {**_GEMMA4, **_GEMMA4_EXPERTS}},
    "emu3": {"vocabulary_map": {"<image>": VOCABULARY_SIZE - 1}, "vq_config": _IMAGE_CODES},
    "ernie4_5_vl_moe": {
        "text_config": {
            "moe_intermediate_size": [32, 32],
            "moe_num_experts": 4,
            "rope_parameters": {**_ROPE, "mrope_section": [22, 22, 20]},
        }
    },
    "falcon_h1": {"mamba_n_heads": 8},
    "florence2": {
        "vision_config": {
            "depths": (1, 1, 1, 1),
            "embed_dim": (16, 32, 32, 64),
            "num_heads": (2, 2, 2, 2),
            "num_groups": (2, 2, 2, 2),
        }
    },
    "gemma3n_text": {
        "intermediate_size": 128,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0],
    },
    "gemma4": {"text_config": _GEMMA4},
    "gemma4_text": {**_GEMMA4, **_GEMMA4_EXPERTS},
    "gemma4_unified": {"text_config": _GEMMA4},
    "gemma4_unified_text": _GEMMA4,
    "glm46v": {"text_config": {"rope_parameters": _ROPE}},
    "glmga": {"text_config": {"rope_parameters": _ROPE}},
    "gpt_neox_japanese": {"intermediate_multiple_size": 2},
    "gptj": {"rotary_dim": 8},
    "granite4_vision": {
        "text_config": {"model_type": "granite4_vision_text"},
        "downsample_rate": "4/8",
        "deepstack_layer_map": [[0, 0]],
        "spatial_target_layers": [1],
    },
    "granitemoehybrid": {"mamba_n_heads": 8, "layer_types": _HYBRID},
    "hrm_text": {"num_hidden_layers": 2, "num_layers_per_stack": _DROPPED},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "layers_block_type": _DROPPED,
        "layer_types": _DROPPED,
    },
    "janus": {"vq_config": _IMAGE_CODES},
    "lfm2_moe": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "layer_types": ["conv", "full_attention"] * 2,
    },
    "mamba2": {"num_heads": 8},
    "mistral4": {"head_dim": 2 * HEAD_SIZE, "rope_parameters": _DROPPED},
    # A plain pass knows no window, a cache does: as published, it is no shorter than the context.
    "moshi": {"sliding_window": 4096, "max_position_embeddings": 4096},
    "qwen2_5_omni_thinker": {"vision_start_token_id": VOCABULARY_SIZE + 9},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": VOCABULARY_SIZE + 9},
    "qwen4_exp": {"text_config": _SPARSE_INDEX},
    "qwen4_exp_text": _SPARSE_INDEX,
    "reformer": {"axial_pos_embds_dim": (16, 48), "axial_pos_shape": (32, 64)},
    "step3p7": {"text_config": {"sliding_window": _WINDOW}},
    "xlstm": {"head_dim": _DROPPED, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": _ZAMBA,
    "zamba2": _ZAMBA,
    "zaya": {"num_experts_per_tok": 1},
}


def model_types() -> dict[str, str]:
    """Every type that transformers generates text with: its name and `text` or `image-text`."""
    text, image_text = _mappings()
    return {**dict.fromkeys(image_text, "image-text"), **dict.fromkeys(text, "text")}


def shrunken_model(
    model_type: str, *, seed: int = 0, widening: int = 1, changes: Mapping[str, Any] | None = None
) -> Any:
    """A random model of a type in `model_types`, with 4 layers of 64 numbers where it has layers.

    In float32, on the CPU, in eval mode; the vocabulary is that of `tiny_tokenizer`. No parameter
    stays constant, lest a mechanism that starts at zero is never seen at work. `widening` and
    `changes` are those of `shrunken_config`. Raises UsageError for an unknown type, and whatever
    transformers raises where it cannot build the model.
    """
    if model_type not in model_types():
        raise UsageError(f"transformers has no type {model_type!r} that generates text")
    config = shrunken_config(model_type, widening=widening, changes=changes)
    model_class = _model_class(model_type)
    wanted = getattr(model_class, "config_class", None)
    # The text class of a composite type takes the config of the text part.
    if wanted is not None and not isinstance(config, wanted) and model_type in _mappings()[0]:
        config = config.get_text_config()
    if getattr(config, "is_decoder", None) is False:
        config.is_decoder = True
    model = _random_model(lambda: model_class(config), seed)
    if model.can_generate():
        model.generation_config.eos_token_id = 2
        model.generation_config.pad_token_id = 0
    return model


def shrunken_like(config: Any, *, trust_remote_code: bool = False, seed: int = 0) -> Any:
    """A random model of a config's own architecture, small, but for its vocabulary.

    As `shrunken_model`; layers keep their kinds, and special tokens their ids, so that the model's
    own tokenizer fits. Raises ModelLoadError where transformers cannot build it.
    """
    import transformers

    settings = _merged(_shrunk(config), _PARTICULARS.get(config.model_type, {}))
    text = settings.get("text_config") or settings
    source = _source_of(config.model_type) if config.model_type in model_types() else ""
    if "mrope_section" in source + str(text.get("rope_parameters")):
        _set_sections(text)
    try:
        small = _rebuilt(config, _with_tokens_of(config, settings))
        auto: Any = transformers.AutoModelForCausalLM
        beside_images = transformers.AutoModelForImageTextToText
        if type(small) not in auto._model_mapping and type(small) in beside_images._model_mapping:
            auto = beside_images
        return _random_model(
            lambda: auto.from_config(small, trust_remote_code=trust_remote_code), seed
        )
    except Exception as error:
        raise ModelLoadError(
            f"no small model can be made of this {config.model_type} config: {first_line(error)}; "
            "examine the model itself, without --shape-only"
        ) from error


def _random_model(build: Callable[[], Any], seed: int) -> Any:
    """The model with every parameter random, whatever the caller drew before."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                _vary(parameter)
    return model


def _with_tokens_of(config: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the vocabulary and the special tokens of a config, nested ones too."""
    own = vars(config)
    kept = rf"{_VOCABULARY}|{_IDS}|{_IDS}s"
    return {
        name: _with_tokens_of(own[name], value)
        if isinstance(value, dict) and hasattr(own.get(name), "model_type")
        else own[name]
        if re.fullmatch(kept, name) and name in own
        else value
        for name, value in settings.items()
    }


def shrunken_config(
    model_type: str, *, widening: int = 1, changes: Mapping[str, Any] | None = None
) -> Any:
    """The default config of a type with every size made small.

    Stream, heads and MLPs are then `widening` times as wide, for code that takes no smaller ones.
    `changes` are settings that are put in where the config has them.
    """
    from transformers import CONFIG_MAPPING

    default = CONFIG_MAPPING[model_type]()
    settings = _merged(_shrunk(default), _PARTICULARS.get(model_type, {}))
    settings = _changed(_widened(settings, widening), changes or {})
    text = settings.get("text_config") or settings
    # Some models rotate in sections that only their code names.
    if "mrope_section" in _source_of(model_type) + str(text.get("rope_parameters")):
        _set_sections(text)
    return _rebuilt(default, settings)


def _widened(settings: Mapping[str, Any], factor: int) -> dict[str, Any]:
    """The settings with every width multiplied, those of nested configs too."""

    def widened(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return _widened(value, factor)
        pattern = next((p for p, _ in _SIZES if re.fullmatch(p, name)), None)
        is_width = pattern in dict(_WIDTHS) and type(value) is int and value > 0
        return factor * value if is_width else value

    return {name: widened(name, value) for name, value in settings.items()}


def _changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with others in the stead of those that are there, in nested configs too."""
    return {
        name: _changed(value, changes) if isinstance(value, dict) else changes.get(name, value)
        for name, value in settings.items()
    }


def _mappings() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    from transformers.models.auto import modeling_auto

    return (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )


def _model_class(model_type: str) -> Any:
    import transformers

    text, image_text = _mappings()
    named = text.get(model_type) or image_text[model_type]
    return getattr(transformers, named if isinstance(named, str) else named[0])


def _source_of(model_type: str) -> str:
    """The code of the module that the type's model class stands in."""
    return inspect.getsource(importlib.import_module(_model_class(model_type).__module__))


def _shrunk(config: Any) -> dict[str, Any]:
    """A config's settings made small; those of configs inside it as dictionaries."""
    from transformers import PreTrainedConfig

    settings = {name: value for name, value in vars(config).items() if _is_setting(name)}
    per_layer = _per_layer(settings)
    kept = _layers_kept(list(per_layer.values()))
    shrunk: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, PreTrainedConfig):
            shrunk[name] = _shrunk(value)
        elif name in per_layer:
            shrunk[name] = [value[layer] for layer in kept]
        else:
            shrunk[name] = _shrunk_value(name, value, settings)
    _set_ids(shrunk)
    return shrunk


def _is_setting(name: str) -> bool:
    """Whether a config's attribute is a setting of the model, and not of its class or file."""
    others = (
        r"_.*|transformers_version|model_type|architectures|id2label|label2id|.*dtype|"
        r"problem_type|num_labels|base_model_.*_plan|attribute_map|keys_to_ignore.*|"
        r"ignore_keys.*|sub_configs|allow_global_per_layer_attribute_access"
    )
    return not re.fullmatch(others, name)


def _per_layer(settings: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """The settings that have an entry for each layer, as `layer_types` has."""
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    layers = next((settings[n] for n in names if isinstance(settings.get(n), int)), 0)
    return {
        name: value
        for name, value in settings.items()
        if isinstance(value, list | tuple) and len(value) == layers > LAYERS
    }


def _layers_kept(lists: Sequence[Sequence[Any]]) -> list[int]:
    """Layers of which each kind is among the few that stay, in their order."""
    rows = [str(row) for row in zip(*lists, strict=True)]
    first_of_kind = [layer for layer, row in enumerate(rows) if row not in rows[:layer]]
    others = [layer for layer in range(len(rows)) if layer not in first_of_kind]
    return sorted([*first_of_kind, *others][:LAYERS])


def _shrunk_value(name: str, value: Any, settings: Mapping[str, Any]) -> Any:
    if value is None:
        return _UNSET.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return 0.15 if name in ("initializer_range", "init_std") else value
    if re.fullmatch(_IDS, name):
        return value
    if re.fullmatch(_LENGTHS, name):
        return max(1024, min(value, 4096))
    if re.fullmatch(_KEY_HEADS, name):
        names = ("num_attention_heads", "n_head", "n_heads", "num_heads")
        heads = next((settings[n] for n in names if isinstance(settings.get(n), int)), None)
        return 1 if value == 1 else (HEADS if value == heads else 2)
    return next((size for pattern, size in _SIZES if re.fullmatch(pattern, name)), value)


def _set_ids(settings: dict[str, Any]) -> None:
    """Put special tokens where the tiny tokenizer has them, an image's beyond the vocabulary."""
    beyond = VOCABULARY_SIZE
    for name, value in settings.items():
        if name == "vocab_offset":
            settings[name] = VOCABULARY_SIZE - 10
        elif name == "pad_token_id":
            settings[name] = 0
        elif name.endswith("eos_token_id") and (value is not None or name == "eos_token_id"):
            settings[name] = 2
        elif re.fullmatch(r"(.*bos|sep|cls|decoder_start)_token_id", name) and value is not None:
            settings[name] = 1
        elif re.fullmatch(_IDS, name) and type(value) is int:
            settings[name] = beyond
            beyond += 1


def _set_sections(settings: dict[str, Any]) -> None:
    """Divide the rotated pairs of dimensions anew among time, height and width."""
    rope = settings.get("rope_parameters") or {"rope_type": "default", "rope_theta": 10000.0}
    nested = {name: value for name, value in rope.items() if isinstance(value, dict)}
    first = next(iter(nested.values()), rope)
    share = first.get("partial_rotary_factor") or 1.0
    if share < 0.5:
        settings["head_dim"] = max(2 * HEAD_SIZE, settings.get("head_dim") or 0)
    pairs = int(settings.get("head_dim", HEAD_SIZE) * share) // 2
    before = first.get("mrope_section") or _SECTIONS
    # Height and width stay as wide as each other: some models interleave them.
    sections = [pairs * section // sum(before) for section in before]
    sections[before.index(min(before, key=before.count))] += pairs - sum(sections)
    if nested:
        nested = {name: {**value, "mrope_section": sections} for name, value in nested.items()}
        settings["rope_parameters"] = {**rope, **nested}
    else:
        settings["rope_parameters"] = {**rope, "mrope_section": sections}


def _merged(settings: dict[str, Any], particulars: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with others in place of their own, down into nested configs."""
    merged = {k: v for k, v in settings.items() if particulars.get(k) is not _DROPPED}
    for name, value in particulars.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merged(merged[name], value)
        elif value is not _DROPPED:
            merged[name] = value
    return merged


def _rebuilt(default: Any, settings: Mapping[str, Any]) -> Any:
    """A config of the default's class, or of a type that the settings name, with these settings."""
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    own = vars(default)
    arguments = {
        name: _rebuilt(own[name], value) if isinstance(own.get(name), PreTrainedConfig) else value
        for name, value in settings.items()
    }
    which = arguments.pop("model_type", None)
    return (CONFIG_MAPPING[which] if which else type(default))(**arguments)


def _vary(parameter: Any) -> None:
    """Give values to a parameter that was left empty, and noise to one that is constant."""
    import torch

    if not parameter.is_floating_point() or not parameter.numel():
        return
    noise = torch.randn(parameter.shape) * 0.05
    if not bool(torch.isfinite(parameter).all()):
        parameter.copy_(noise)
    elif parameter.numel() > 1 and float(parameter.std()) == 0:
        parameter.add_(noise)
