"""What is wrong is said with the command that works: for slips between models, runs and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from keel.engines.catalogue import check_names_model
from keel.errors import KeelError, StorageError
from keel.store import write_bytes
from tests.cli.commands import talk
from tests.cli.test_refusals import check_refused

Arguments = Callable[[Path, Path], list[object]]
"""Of a run called `held` and a model's folder."""


def spoken() -> Path:
    return talk(Path("t.json"), ("user", "Hi"), ("assistant", "Hello"))


SLIPS: dict[str, tuple[Arguments, tuple[str, ...]]] = {
    "a run where a model is wanted": (
        lambda run, model: ["extract", run, "-o", "new"],
        ("held is a run, expected a model; give the model that it was made on (/",),
    ),
    "a transcript where a model is wanted": (
        lambda run, model: ["extract", spoken(), "-o", "new"],
        ("t.json is a file, expected a model: an alias (smollm2",),
    ),
    "a path that is not there where a model is wanted": (
        lambda run, model: ["extract", "./hold", "-o", "new"],
        ("there is no folder or file ./hold; did you mean held?",),
    ),
    "an alias with a slip": (
        lambda run, model: ["doctor", "smollm"],
        ("there is no model 'smollm'; did you mean smollm2?",),
    ),
    "a transcript where a run is wanted": (
        lambda run, model: ["chat", spoken()],
        ("t.json is a file, expected the folder of a run",),
    ),
    "drift's arguments swapped": (
        lambda run, model: ["drift", spoken(), run],
        ("held is a run, expected a transcript; the run comes first: keel drift held FILE",),
    ),
    "a folder of runs": (
        lambda run, model: ["chat", "."],
        (". is a folder of runs (held); give one: held",),
    ),
    "a model's folder where a run is wanted": (
        lambda run, model: ["chat", model],
        ("is a model's folder, expected a run's; make a run of it: keel extract",),
    ),
    "a folder of runs to serve, with no vLLM either": (
        lambda run, model: ["serve", "."],
        ("is a folder of runs (held); give one: /",),
    ),
    "a setting with a slip to serve, with no vLLM either": (
        lambda run, model: ["serve", "held", "--setting", "nonsense"],
        ("KEEL_SETTING is 'nonsense', but", "held holds "),
    ),
    "no demo yet where the page looks for it": (
        lambda run, model: ["ui"],
        ("runs/demo is no run folder", "keel demo shows one that is recorded"),
    ),
    "a run with a slip": (
        lambda run, model: ["report", "heldd"],
        ("heldd is no run folder; did you mean held? or make one",),
    ),
    "an alias where a run is wanted": (
        lambda run, model: ["chat", "smollm2"],
        ("if it is a model: keel extract smollm2 -o runs/smollm2",),
    ),
    "a percentile as the paper writes it": (
        lambda run, model: ["calibrate", run, "--percentile", "0.25"],
        ("percentile is 0.25", "the paper's 0.25 is 75 here"),
    ),
    "an export below a file": (
        lambda run, model: ["export", run, "-o", f"{spoken()}/axis.safetensors"],
        ("t.json is a file, not a folder; choose another path",),
    ),
    "an export onto a folder": (
        lambda run, model: ["export", run, "-o", "."],
        (". is a folder; give a file in it",),
    ),
    "a transcript that is imported": (
        lambda run, model: ["import", spoken(), "-o", "x.safetensors"],
        ("t.json is no file of vectors, expected .pt",),
    ),
    "one judge where two are compared": (
        lambda run, model: ["judge", "agree", run],
        ("1 arguments are given, expected two judges' files, or a run and two",),
    ),
    "an address without its scheme": (
        lambda run, model: ["check", "localhost:8000"],
        ("localhost:8000 is no address, expected http://HOST:PORT", "http://localhost:8000"),
    ),
}


@pytest.mark.parametrize("case", SLIPS)
def test_a_slip_is_answered_with_what_works(keel, held, model, case):
    arguments, said = SLIPS[case]
    check_refused(keel(*arguments(held, model)), *said)


def test_what_only_a_full_disk_needs_is_advised_only_there(tmp_path):
    """Every refusal but that of a right was answered with `free some space` once."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as raised:
        write_bytes(tmp_path / "file" / "x", b"")
    assert "space" not in str(raised.value)


@pytest.mark.parametrize("name", ["org/name", "gpt2", "meta-llama/Llama-3.3-70B", "smollm2"])
def test_what_a_hub_could_have_is_left_to_it(name, place):
    check_names_model(name)


def test_a_folder_called_like_an_owner_makes_its_models_paths(place):
    (place / "runs").mkdir()
    with pytest.raises(KeelError, match="there is no folder or file runs/mine; check the path"):
        check_names_model("runs/mine")


def test_a_run_that_cannot_be_read_is_a_run_still(place):
    (place / "run").mkdir()
    (place / "run" / "plan.json").write_text(json.dumps({}))
    with pytest.raises(KeelError, match="run is a run, expected a model; give the model that it"):
        check_names_model("run")


def test_a_model_s_own_folder_is_no_run(model, place):
    check_names_model(str(model))
