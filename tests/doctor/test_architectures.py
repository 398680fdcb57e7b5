"""Keel on types of models, tiny: a sample of twenty spread over the kinds, and the popular list."""

from __future__ import annotations

import pytest

from keel.doctor import examine, model_types, shrunken_model
from keel.testing import tiny_tokenizer

SAMPLE = [
    "gpt2",  # learned positions
    "gptj",  # attention and MLP side by side
    "bloom",  # biases for distance, fused heads
    "falcon",  # a head of keys for all
    "mpt",  # whose masks are its own
    "openai-gpt",  # without a cache
    "opt",  # positions from the mask
    "bart",  # the decoder of a pair
    "roberta",  # an encoder made a decoder
    "xglm",  # sinusoids
    "mamba",  # states only
    "mamba2",
    "rwkv",
    "recurrent_gemma",  # states and windows
    "zamba2",  # shared blocks
    "bamba",
    "dbrx",  # experts
    "longcat_flash",  # two attentions to a block
    "evolla",  # beside a protein encoder
    "llava_onevision",  # beside a vision tower
]
POPULAR = """
    llama llama4 llama4_text qwen2 qwen3 qwen3_moe qwen3_next qwen3_5 qwen3_5_text qwen3_5_moe
    qwen2_5_vl qwen3_vl qwen3_vl_moe gemma2 gemma3 gemma3_text gemma3n_text gemma4 gemma4_text
    mistral mistral3 mistral4 ministral3 gpt_oss deepseek_v3 deepseek_v32 deepseek_v4 glm4 glm4_moe
    glm4v glm_moe_dsa glm5_next kimi_k25 kimi_linear minimax minimax_m2 minimax_m3_vl granite
    granitemoehybrid lfm2 lfm2_moe lfm2_vl nemotron_h falcon_h1 jamba olmo3 phi3 phi4_multimodal
    smollm3 exaone4 exaone4_5 hunyuan_v1_dense hunyuan_v1_moe hy_v4 ernie4_5 ernie4_5_moe
    ernie4_5_vl_moe seed_oss apertus
""".split()
"""Kimi K2 is built as deepseek_v3, Phi 4 as phi3, GLM 5 as glm_moe_dsa. Gemma 3n with its towers
needs timm."""

RED: dict[str, str] = {}
"""Types on which a check does not pass, and why."""


def cases() -> list[object]:
    return [
        pytest.param(
            name,
            marks=[pytest.mark.xfail(strict=True, reason=RED[name])] if name in RED else [],
        )
        for name in dict.fromkeys([*SAMPLE, *POPULAR])
    ]


@pytest.mark.filterwarnings("ignore")  # transformers' own, of models that it deprecates
@pytest.mark.parametrize("model_type", cases())
def test_every_check_passes(model_type):
    if model_type not in model_types():
        pytest.skip("this transformers does not have it")
    examination = examine(shrunken_model(model_type), tiny_tokenizer())
    unsound = [c for c in examination.checks if c.status not in ("passed", "skipped")]
    assert unsound == []


def test_the_sample_has_twenty_types_outside_the_popular_list():
    assert len(set(SAMPLE) - set(POPULAR)) == 20
