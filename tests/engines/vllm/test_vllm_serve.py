"""`vllm serve` with the plugin installed, nothing else changed, asked over real HTTP."""

from __future__ import annotations

import importlib.util
import os
import tomllib
from pathlib import Path

import pytest

import keel
from keel.cli import run as keel_command
from keel.engines import open_engine
from keel.store import save_floors
from keel.types import Floors
from tests.engines.vllm.http_servers import ended, post, served, start
from tests.engines.vllm.serving_vllm import GREEDY, band, by_index, prompt, tiny

ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(600),
]

PROMPT = prompt("what is the sea like")
SETTINGS = {"low": band(2.0), "high": band(4.0, seed=5)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def floors(tmp_path_factory):
    path = tmp_path_factory.mktemp("floors") / "floors.safetensors"
    bands = [Floors(tuple(floors), name) for name, floors in SETTINGS.items()]
    save_floors(bands, path, default="high")
    return path


@pytest.fixture(scope="module")
def expected(folder):
    """What the transformers engine answers: unsteered and under each setting."""
    engine = open_engine(str(folder), dtype="float32", device="cpu")
    found = {}
    for name, held in {"none": [], **SETTINGS}.items():
        answers = engine.generate([PROMPT], GREEDY, seed=0, interventions=held)
        found[name] = list(by_index(answers)[0].token_ids)
    assert len({tuple(tokens) for tokens in found.values()}) == 3
    found["prompt"] = engine.template.prompt_ids(PROMPT.conversation)
    return found


def answer(url, expected, **asked):
    """Greedy tokens of the prompt; the refusal's message where it is refused."""
    body = {
        "model": "tiny",
        "prompt": expected["prompt"],
        "max_tokens": GREEDY.max_new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        **asked,
    }
    status, _, reply = post(url, "/v1/completions", body)
    if status == 400:
        return reply["error"]["message"]
    assert status == 200, reply
    return reply["choices"][0]["token_ids"]


def agrees(found, expected):
    """Whether an answer is the expected one as far as that goes (it may end earlier)."""
    return found[: len(expected)] == expected


def test_enforced_floors_cannot_be_switched_off(folder, floors, expected, capsys):
    with served(folder, KEEL_FLOORS=str(floors), KEEL_ENFORCE="1", KEEL_SETTING="low") as url:
        assert agrees(answer(url, expected), expected["low"])
        assert "holds every request alike" in answer(url, expected, vllm_xargs={"keel": "none"})
        assert agrees(answer(url, expected), expected["low"])
        assert keel_command(["check", url]) == 0
        assert "requests are held by low, enforced" in capsys.readouterr().out


def test_installed_but_not_configured_the_plugin_changes_nothing(folder, expected, capsys):
    with served(folder) as url:
        assert agrees(answer(url, expected), expected["none"])
        assert "without Keel" in answer(url, expected, vllm_xargs={"keel": "high"})
        assert keel_command(["check", url]) == 3
        assert "runs without Keel" in capsys.readouterr().err


def test_a_keel_that_cannot_be_loaded_ends_a_server_with_floors(folder, floors, tmp_path):
    """vLLM only logs an error at a plugin's import, and went on uncapped."""
    (tmp_path / "jaxtyping.py").write_text("raise ImportError('no jaxtyping here')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    install_as_declared(tmp_path)
    said = ended(start(folder, 1, {"KEEL_FLOORS": str(floors), "PYTHONPATH": path}))
    assert "keel: Keel cannot be loaded: no jaxtyping here" in said


def install_as_declared(where):
    """Keel's entry points as pyproject.toml has them now, whatever was installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name, version = project["name"], keel.__version__
    folder = where / f"keel_llm-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "entry_points.txt").write_text(
        "\n".join(
            f"[{group}]\n" + "\n".join(f"{key} = {value}" for key, value in entries.items())
            for group, entries in project["entry-points"].items()
        )
    )
