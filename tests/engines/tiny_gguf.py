"""A tiny Llama as one GGUF file, laid out as llama.cpp does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter

from keel.testing import tiny_model, tiny_tokenizer

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OTHER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_tiny_gguf(path: Path, *, pre: str = "gpt-2", begins: bool = False) -> Path:
    """The tiny Llama's weights and tokenizer in one file.

    `pre` is llama.cpp's name of how its texts are split; `begins`: a token stands before each.
    """
    model = tiny_model("llama")
    writer = GGUFWriter(path, "llama")
    _write_shape(writer, model.config)
    _write_tokenizer(writer, pre)
    writer.add_bos_token_id(1)
    writer.add_add_bos_token(begins)
    for name, numbers in _weights(model).items():
        writer.add_tensor(name, np.ascontiguousarray(numbers))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_shape(writer: GGUFWriter, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: GGUFWriter, pre: str) -> None:
    tokenizer = tiny_tokenizer()
    places = tokenizer.get_vocab()
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(sorted(places, key=places.__getitem__))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_token_types([3 if n < 3 else 1 for n in range(len(places))])  # 3: control
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def _weights(model: Any) -> dict[str, np.ndarray]:
    names = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in _OTHER.items()}
    for n in range(model.config.num_hidden_layers):
        for ours, theirs in _LAYER.items():
            names[f"model.layers.{n}.{ours}.weight"] = f"blk.{n}.{theirs}.weight"
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    state = model.state_dict()
    found = {}
    for ours, theirs in names.items():
        numbers = state[ours].numpy()
        count = next((c for part, c in heads.items() if part in ours), None)
        found[theirs] = numbers if count is None else _interleaved(numbers, count)
    return found


def _interleaved(numbers: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp rotates them: neighbours in pairs, not the two halves of a head."""
    split = numbers.reshape(heads, 2, len(numbers) // heads // 2, -1)
    return split.swapaxes(1, 2).reshape(numbers.shape)
