"""A model's owner reads on one page whether Keel works on it, and scripts read it as JSON."""

from __future__ import annotations

import json
import shutil

import peft
import pytest
import transformers

from keel.cli import doctor
from keel.doctor import CHECK_NAMES
from keel.testing import save_tiny_model, tiny_model, tiny_tokenizer
from tests.cli.commands import CPU
from tests.engines.tiny_gguf import write_tiny_gguf


def test_every_check_has_a_sentence_of_its_own():
    assert tuple(doctor._MEANINGS) == CHECK_NAMES


def test_a_sound_model_gets_a_page_that_ends_with_what_to_type_next(keel, model):
    page = keel("doctor", model, *CPU)
    assert page.code == 0, page.out
    assert "LlamaForCausalLM" in page.out
    assert "model.layers: 4 blocks, a stream of 32 numbers" in page.out
    assert "conversations of up to 4,096 tokens" in page.out
    assert "Keel works on this model." in page.out
    assert f"keel extract {model}" in page.out
    assert "checking: 1/" in page.err


def test_in_json_every_check_stands_with_what_it_means(keel, model):
    record = keel("doctor", model, *CPU, "--json").json
    assert record["is_sound"] is True
    assert [check["name"] for check in record["checks"]] == list(CHECK_NAMES)
    assert {check["status"] for check in record["checks"]} <= {"passed", "skipped"}
    assert all(check["text"] and check["meaning"] for check in record["checks"])


def test_a_model_on_which_a_check_fails_ends_with_3_and_says_which(keel, tmp_path):
    """A template that keeps only the last message drops the first answer."""
    tiny_model("llama").save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    tokenizer.save_pretrained(tmp_path)
    page = keel("doctor", tmp_path, *CPU)
    assert page.code == 3
    assert "Keel does not work on this model as it is" in page.out
    record = json.loads(keel("doctor", tmp_path, *CPU, "--json").out)
    assert record["is_sound"] is False


def test_a_model_that_cannot_be_opened_is_told_with_the_remedy(keel, model):
    page = keel("doctor", model, *CPU, "--blocks", "model.nothing")
    assert page.code == 3
    assert "✗ opens" in page.out
    assert "Not supported; the line says what to do" in page.out


def test_a_model_that_does_not_run_by_itself_is_not_reported_as_keels_fault(keel, model, tmp_path):
    """A tokenizer of another model was said to be a fault to report."""
    config = transformers.LlamaConfig(
        vocab_size=200, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    page = keel("doctor", tmp_path, *CPU)
    assert page.code == 3
    assert "take the tokenizer that belongs to it" in page.out
    assert "The model does not run without Keel either" in page.out
    assert "report it" not in page.out


def test_a_dtype_that_is_none_is_not_blamed_on_the_tokenizer(keel, model, tmp_path):
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float23"}))
    page = keel("doctor", tmp_path, *CPU)
    assert (page.code, page.out) == (3, "")
    assert "has no attribute 'float23'; config.json names a dtype that is none" in page.err


def test_what_is_no_model_is_refused_in_one_line(keel, tmp_path):
    page = keel("doctor", tmp_path / "none.gguf")
    assert (page.code, page.out) == (3, "")
    assert "there is no file" in page.err


def test_a_gguf_file_is_examined(keel, tmp_path, monkeypatch):
    monkeypatch.setenv("KEEL_CACHE", str(tmp_path / "cache"))
    page = keel("doctor", write_tiny_gguf(tmp_path / "tiny.gguf"), *CPU)
    assert page.code == 0, page.out


def test_an_adapters_folder_is_examined_on_its_base(keel, tmp_path):
    base = save_tiny_model(tmp_path / "base", "llama")
    model = peft.get_peft_model(
        tiny_model("llama"), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(tmp_path / "lora")
    page = keel("doctor", tmp_path / "lora", *CPU)
    assert page.code == 0, page.out


@pytest.mark.parametrize("model_type", ["qwen3", "gemma3_text", "mamba", "deepseek_v3", "gpt2"])
def test_a_folder_without_weights_is_examined_by_its_shape(keel, tmp_path, model_type):
    """As published: full widths and a vocabulary that only the tokenizer's ids reach into."""
    transformers.AutoConfig.for_model(model_type, vocab_size=5000).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    page = keel("doctor", tmp_path, "--shape-only")
    assert page.code == 0, page.out
    assert "small and with random weights" in page.out
    assert "5,000 finite logits" in page.out
    assert "4 blocks, a stream of 64 numbers" in page.out


def test_positions_on_three_axes_are_divided_anew_in_the_small_model(keel, tmp_path):
    """Qwen 2.5-VL's 16, 24 and 24 pairs of dimensions do not fit into 8."""
    transformers.AutoConfig.for_model("qwen2_5_vl").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    record = json.loads(keel("doctor", tmp_path, "--shape-only", "--json").out)
    assert record["checks"][0]["status"] == "passed", record["checks"][0]["text"]


@pytest.mark.real
def test_the_embedded_model_is_sound(keel):
    page = keel("doctor", "smollm2", *CPU)
    assert page.code == 0, page.out
    assert "conversations of up to 8,192 tokens" in page.out
