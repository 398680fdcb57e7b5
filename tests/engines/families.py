"""Tiny random models of families whose state, padding or positions are not those of a Llama."""

from __future__ import annotations

from typing import Any

import torch

from keel.testing.tiny_models import VOCABULARY_SIZE

_TOKENS = {
    "vocab_size": VOCABULARY_SIZE,
    "bos_token_id": None,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
_WIDTH = {"hidden_size": 32, "num_hidden_layers": 4, "initializer_range": 0.2}
_ATTENTION = {
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
}
_LLAMA = _TOKENS | _WIDTH | _ATTENTION
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_DELTA_NET = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
_MAMBA2 = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
_BART = {
    "d_model": 32,
    "init_std": 0.2,
    "decoder_layers": 4,
    "encoder_layers": 4,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "is_decoder": True,
    "is_encoder_decoder": False,
}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_VISION = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32}
_IMAGE = {"image_token_id": 319, "video_token_id": 318, "vision_start_token_id": 317}


def _seeing(**vision: Any) -> dict[str, Any]:
    text = _LLAMA | {"rope_parameters": _MROPE}
    return {
        "text_config": text,
        "vision_config": _VISION | vision,
        **_IMAGE,
        "tie_word_embeddings": False,
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_next": _LLAMA
    | _DELTA_NET
    | _EXPERTS
    | {"num_experts": 4, "shared_expert_intermediate_size": 16},
    "qwen3_5_text": _LLAMA | _DELTA_NET,
    "falcon_h1": _LLAMA | _MAMBA2 | {"mamba_d_ssm": 32, "mamba_d_head": 8},
    "jamba": _LLAMA
    | {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 4,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "granitemoehybrid": _LLAMA
    | _MAMBA2
    | {
        "layer_types": ["mamba", "attention"] * 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 32,
    },
    "lfm2": _LLAMA
    | {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},
    "nemotron_h": _LLAMA
    | {
        "layers_block_type": ["mamba", "attention", "mamba", "mlp"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 8,
    },
    "zaya": _LLAMA,
    "minimax": _LLAMA
    | {
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "num_local_experts": 4,
        "block_size": 8,
    },
    "mamba": _TOKENS | _WIDTH | {"state_size": 4, "time_step_rank": 4},
    "mamba2": _TOKENS
    | _WIDTH
    | {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "rwkv": _TOKENS | _WIDTH | {"attention_hidden_size": 32, "intermediate_size": 64},
    "xlstm": _TOKENS
    | _WIDTH
    | {
        "num_heads": 4,
        "num_blocks": 4,
        "qk_dim_factor": 2.0,  # both widths are rounded to multiples of 64, in the cache only
        "v_dim_factor": 2.0,
        "chunkwise_kernel": "chunkwise--native_autograd",
        "sequence_kernel": "native_sequence__native",
        "step_kernel": "native",
        "chunk_size": 16,
    },
    "recurrent_gemma": _LLAMA
    | {
        "lru_width": 32,
        "attention_window_size": 16,
        "block_types": ["recurrent", "attention"],
    },
    "mpt": _TOKENS | {"d_model": 32, "n_heads": 4, "n_layers": 4, "max_seq_len": 256},
    "bart": _TOKENS | _BART | {"max_position_embeddings": 256},
    "roberta": _LLAMA | {"is_decoder": True},
    "openai-gpt": _TOKENS | {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 512},
    "qwen2_5_vl": _seeing(out_hidden_size=32, fullatt_block_indexes=[0]),
    "qwen3_vl": _seeing(out_hidden_size=32, deepstack_visual_indexes=[0]),
    "glm4v": _seeing(out_hidden_size=32),
    "paddleocr_vl": _seeing(num_hidden_layers=1, num_attention_heads=2),
}


def model_of(family: str, **changes: Any) -> Any:
    """A random model of the family, in float32 and eval mode; its config is changed as given."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.for_model(family, **{**CONFIGS[family], **changes})
    kind = (
        AutoModelForImageTextToText if "vision_config" in CONFIGS[family] else AutoModelForCausalLM
    )
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.from_config(config).eval()
        for parameter in model.parameters():
            # Families that ignore `initializer_range` would be all but blind to their input.
            if parameter.ndim > 1 and 0 < float(parameter.std()) < 0.1:
                parameter.mul_(0.2 / parameter.std())
    return model
