"""The doctor sees what is wrong: each test breaks a model, or Keel on it, and reads the check."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from keel.doctor import Check, examine, shrunken_model
from keel.engines.transformers import TransformersEngine
from keel.engines.transformers.running import Passes
from keel.engines.transformers.traits import BatchTraits
from keel.steering import Firing, Steering
from keel.testing import tiny_model, tiny_tokenizer
from keel.testing.tiny_models import CHATML
from tests.releases import CACHE


def checks_of(model: Any) -> dict[str, Check]:
    """The checks of an examination by name."""
    return {check.name: check for check in examine(model, tiny_tokenizer()).checks}


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_a_model_that_keel_works_on_passes_every_check(family):
    checks = checks_of(tiny_model(family))
    assert [c for c in checks.values() if c.status not in ("passed", "skipped")] == []
    assert "model.layers: 4 blocks" in checks["blocks"].text or family == "gpt2"


def test_checks_are_reported_as_they_end():
    seen: list[str] = []
    examination = examine(
        tiny_model("llama"), tiny_tokenizer(), on_check=lambda c: seen.append(c.name)
    )
    assert seen == [check.name for check in examination.checks]


def test_the_model_is_left_as_it_was():
    model = tiny_model("llama")
    ends, ids = model.generation_config.eos_token_id, torch.arange(3, 9)[None]
    before = model(ids, output_hidden_states=True).logits  # transformers' own hooks stay
    hooks = [len(block._forward_hooks) for block in model.model.layers]
    examine(model, tiny_tokenizer())
    assert model.generation_config.eos_token_id == ends
    assert torch.equal(model(ids).logits, before)
    assert [len(block._forward_hooks) for block in model.model.layers] == hooks


def test_a_model_that_cannot_run_on_text_is_the_models_own_fault_and_ends_the_examination():
    model = tiny_model("llama")

    def forward(**_: Any) -> None:
        raise ValueError("You have to specify pixel_values")

    model.forward = forward
    (check,) = checks_of(model).values()
    assert (check.name, check.status) == ("runs by itself", "failed")
    assert "without Keel" in check.text
    assert "pixel_values" in check.text


@pytest.mark.parametrize("positions", [24, 40, 64])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_a_short_context_is_examined_within_it(model_type, positions):
    """Of 24 tokens five checks were refused, and GPT-2's table of 64 ended in IndexErrors."""
    config = transformers.AutoConfig.for_model(
        model_type,
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    examination = examine(model, tiny_tokenizer())
    assert examination.is_sound, [c for c in examination.checks if c.status != "passed"]
    by_name = {check.name: check for check in examination.checks}
    assert by_name["cached equals uncached"].status == "passed"
    assert f"up to {positions} tokens" in by_name["context"].text


def test_a_context_that_holds_no_conversation_is_refused_with_both_numbers():
    config = transformers.LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=12,
    )
    examination = examine(transformers.LlamaForCausalLM(config).eval(), tiny_tokenizer())
    last = examination.checks[-1]
    assert (last.name, last.status) == ("opens", "refused")
    assert "holds 12 tokens, and the chat template makes " in last.text
    assert not examination.is_sound


def test_a_tokenizer_of_another_model_is_named_with_both_numbers():
    model = tiny_model("llama")
    model.resize_token_embeddings(200)
    (check,) = checks_of(model).values()
    assert (check.name, check.status) == ("runs by itself", "failed")
    assert "embeddings of 200 alone" in check.text


def test_a_list_of_blocks_that_is_not_there_is_refused_with_its_remedy():
    examination = examine(tiny_model("llama"), tiny_tokenizer(), blocks="model.layer")
    assert [check.name for check in examination.checks] == ["runs by itself", "opens"]
    assert examination.checks[-1].status == "refused"
    assert "--blocks" in examination.checks[-1].text


def test_a_floor_that_is_held_too_low_fails(monkeypatch):
    def lower(self: Any, layer: Any, hidden_size: Any) -> Any:
        return lambda _block, _args, output: output

    monkeypatch.setattr(Steering, "block_hook", lower)
    monkeypatch.setattr(Steering, "firing", lambda self: Firing({}, {}))
    check = checks_of(tiny_model("llama"))["cap holds"]
    assert check.status == "failed"
    assert "equation 1 by hand" in check.text


TRUSTING = BatchTraits(Passes(), has_company=True, pads_left=True, pads_right=True, row_axes=None)


def blind_to_padding():
    model = tiny_model("gpt2")
    forward = model.forward

    def blind(*args: Any, attention_mask: Any = None, position_ids: Any = None, **kwargs: Any):
        return forward(*args, **kwargs)

    model.forward = blind
    return model


def with_a_cache_that_forgets():
    model = tiny_model("llama")
    prepare = model.prepare_inputs_for_generation

    def forgetful(input_ids: Any, **kwargs: Any) -> Any:
        prepared = prepare(input_ids, **kwargs)
        if prepared.get(CACHE) is not None and prepared["input_ids"].shape[1] == 1:
            for layer in prepared[CACHE].layers:
                layer.values[:, :, 0].zero_()
        return prepared

    model.prepare_inputs_for_generation = forgetful
    return model


def test_a_model_that_ignores_padding_fails_where_rows_are_padded_and_nowhere_else(monkeypatch):
    monkeypatch.setattr("keel.engines.transformers.engine.traits_of", lambda *_: TRUSTING)
    checks = checks_of(blind_to_padding())
    assert checks["padded equals alone"].status == "failed"
    assert checks["cap holds"].status == "passed"


def test_a_cache_that_forgets_fails(monkeypatch):
    monkeypatch.setattr("keel.engines.transformers.engine.traits_of", lambda *_: TRUSTING)
    assert checks_of(with_a_cache_that_forgets())["cached equals uncached"].status == "failed"


def test_a_short_cut_that_misleads_the_model_is_not_taken_and_said():
    padding = checks_of(blind_to_padding())["padded equals alone"]
    cache = checks_of(with_a_cache_that_forgets())["cached equals uncached"]
    assert (padding.status, cache.status) == ("passed", "passed")
    assert "never padded" in padding.text
    assert "not used" in cache.text


def test_an_error_that_nobody_foresaw_is_a_crash_with_its_name(monkeypatch):
    def fail(self: Any, *_args: Any, **_options: Any) -> None:
        raise KeyError("num_attention_heads")

    monkeypatch.setattr(TransformersEngine, "read", fail)
    check = checks_of(tiny_model("llama"))["generated equals read"]
    assert check.status == "crashed"
    assert check.text == "KeyError: 'num_attention_heads'"


@pytest.mark.parametrize(
    "template",
    [CHATML.replace("message['content']", "'Hm.'"), "{{ raise_exception('no text for you') }}"],
)
def test_a_template_that_refuses_or_changes_what_is_said_is_not_the_models_own_fault(template):
    """It was said of the model that it does not read plain text."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    first, last = examine(tiny_model("llama"), tokenizer).checks
    assert (first.name, first.status) == ("runs by itself", "passed")
    assert (last.name, last.status) == ("opens", "refused")
    assert "chat template" in last.text


@pytest.mark.parametrize("model_type", ["mamba", "mamba2", "falcon_mamba"])
def test_hidden_states_without_an_embedding_are_compared_block_by_block(model_type):
    """Mamba's first is the output of its first block; sound models failed by it."""
    check = {c.name: c for c in examine(shrunken_model(model_type), tiny_tokenizer()).checks}[
        "stream is the model's own"
    ]
    assert check.status == "passed", check.text
