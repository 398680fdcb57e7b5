"""Tiny models and their tokenizer: as random as promised, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from keel.errors import UsageError
from keel.testing import TINY_FAMILIES, save_tiny_model, tiny_model, tiny_tokenizer

TEXT = "Who are you, ghöst? 你好 🤞\n"


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_every_family_answers_with_finite_logits(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    with torch.no_grad():
        logits = model(**tokenizer(TEXT, return_tensors="pt")).logits
    assert logits.shape[-1] == len(tokenizer)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_a_model_is_in_eval_mode_and_float32(family):
    model = tiny_model(family)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_layers_and_hidden_size_are_as_asked_for():
    config = tiny_model("llama", layers=3, hidden=16).config
    assert (config.num_hidden_layers, config.hidden_size) == (3, 16)


def test_the_same_seed_builds_the_same_weights_and_another_seed_others():
    def first(seed):
        return next(tiny_model("qwen3", seed=seed).parameters())

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_building_a_model_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    tiny_model("gpt2")
    assert torch.equal(torch.rand(3), expected)


def test_an_unknown_family_is_refused_by_name():
    with pytest.raises(UsageError, match=r"'lama'.*llama, qwen3"):
        tiny_model("lama")


def test_the_prompt_changes_what_is_answered():
    """A model blind to its input would let every test of steering pass."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    with torch.no_grad():
        first, second = (
            model(**tokenizer(text, return_tensors="pt")).logits[0, -1].softmax(-1)
            for text in ("you are a ghost", "pirate are you?")
        )
    assert float((first - second).abs().sum()) > 0.1


@pytest.mark.parametrize("family", ["llama", "gemma3_vision"])
def test_a_saved_folder_loads_to_the_same_model(tmp_path: Path, family):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_tiny_model(tmp_path / "model", family, layers=2)
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        expected = tiny_model(family, layers=2)(**tokens).logits
        assert torch.equal(loaded(**tokens).logits, expected)
    assert tokenizer.chat_template == tiny_tokenizer().chat_template


def test_any_text_survives_the_round_trip():
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(tokenizer(TEXT).input_ids) == TEXT


def test_offsets_name_the_characters_that_a_token_holds():
    tokenizer = tiny_tokenizer()
    coded = tokenizer("ghost the end", return_offsets_mapping=True)
    pieces = ["ghost the end"[a:b] for a, b in coded["offset_mapping"]]
    assert "".join(pieces) == "ghost the end"
    assert " the" in pieces  # a merge


def test_special_tokens_are_one_token_each():
    tokenizer = tiny_tokenizer()
    assert tokenizer("<|im_start|><|im_end|>").input_ids == [1, 2]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)


def test_the_chat_template_writes_chatml_and_adds_nothing_of_its_own():
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    text = tiny_tokenizer().apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )
    assert text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
