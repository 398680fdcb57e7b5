"""What would be refused is refused before a model is loaded, which may take minutes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from keel.store import RunFolder
from tests.cli.commands import CPU, SMALL, contents, talk
from tests.cli.test_refusals import check_refused

ROLE = {"system_prompts": ["a", "b", "c", "d", "e"]}


@pytest.fixture
def gone(bare: Path) -> Path:
    """A run whose model cannot be loaded any more: to try would be another error."""
    manifest = bare / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["identity"]["model_id"] = "./gone"
    manifest.write_text(json.dumps(facts))
    return bare


def role_files(count: int) -> Path:
    folder = Path("roles")
    folder.mkdir()
    for number in range(count):
        (folder / f"r{number}.json").write_text(json.dumps({"name": f"r{number}", **ROLE}))
    return folder


def said() -> Path:
    return talk(Path("t.json"), ("user", "Hi"), ("assistant", "Hello"))


ON_A_LOCKED_RUN: dict[str, Callable[[Path], list[object]]] = {
    "calibrate": lambda run: ["calibrate", run],
    "drift": lambda run: ["drift", run, said()],
    "judge": lambda run: ["judge", run],
    "evaluate": lambda run: ["evaluate", run, "jailbreak", "--arms", "none"],
    "extract": lambda run: ["extract", "./gone", "-o", run, *SMALL, "--overwrite"],
    "demo": lambda run: ["demo", "--anew", "-o", run, "--model", "./gone"],
}


@pytest.mark.parametrize("command", ON_A_LOCKED_RUN)
def test_a_folder_that_another_process_holds(keel, gone, command):
    """Told after 2 min 50 s once."""
    with RunFolder(gone).lock():
        check_refused(keel(*ON_A_LOCKED_RUN[command](gone)), "another process (pid ")


NO_FLOORS: dict[str, list[object]] = {
    "chat": ["chat", "bare", "--capped"],
    "evaluate": ["evaluate", "bare", "jailbreak", "--arms", "none,capped"],
    "a control": ["evaluate", "bare", "jailbreak", "--arms", "none,random"],
    "a control of a study": ["drift", "study", "bare", "--arms", "none,shuffled"],
}


@pytest.mark.parametrize("case", NO_FLOORS)
def test_floors_that_are_not_there(keel, gone, case):
    """Told after 67 s once."""
    check_refused(keel(*NO_FLOORS[case], *CPU), "bare has no floors", "keel calibrate bare")


def test_a_task_that_lm_eval_does_not_have(keel, gone):
    """Told after 2 min 15 s once, when controls had been matched."""
    arguments = ["evaluate", "bare", "capability", "--arms", "none"]
    check_refused(keel(*arguments, "--task", "nosuch"), "lm-eval has no task 'nosuch'")
    suites = "Keel has no suite 'nosuch' (capability,", "susceptibility, jailbreak,"
    check_refused(keel("evaluate", "bare", "nosuch", "--arms", "none"), *suites, "no task 'nosuch'")


NO_NAME: dict[str, list[object]] = {
    "drift study": ["drift", "study", "bare", "--arms", "none", "--name", "../x"],
    "evaluate": ["evaluate", "bare", "jailbreak", "--arms", "none", "--name", "../x"],
}


@pytest.mark.parametrize("command", NO_NAME)
def test_a_name_that_no_folder_can_have(keel, gone, command):
    """Told after 54 s once, when a model had been loaded beside other work."""
    check_refused(keel(*NO_NAME[command], *CPU), "cannot be called '../x'; use letters, digits")


def test_too_few_roles(keel, place):
    """Told after 77 s once."""
    found = keel("extract", "./gone/model", "-o", "run", "--roles", role_files(2))
    check_refused(found, "roles of roles with keel's default has 2 roles, expected 3 or more")
    assert not Path("run").exists()


def test_other_settings_on_a_folder_that_was_begun(keel, bare):
    found = keel("extract", "./gone/model", "-o", bare, *SMALL, "--seed", "1")
    check_refused(found, "begun with other inputs", "seed 0 → 1", "choose another folder with -o")


def test_an_output_that_cannot_be_written(keel, place):
    Path("file").write_text("")
    for out in ("file", "file/run"):
        found = keel("extract", "./gone/model", "-o", out, *SMALL)
        check_refused(found, "file is a file, not a folder; choose another path")


def test_what_is_given_is_taken_whole_where_no_count_is_asked_for(keel, model, place):
    """The example of `keel extract --help` was refused: a small scale takes 24 roles."""
    questions = Path("questions.jsonl")
    questions.write_text("".join(json.dumps({"question": f"Q{n}?"}) + "\n" for n in range(4)))
    given = ("--roles", role_files(3), "--questions", questions)
    priced = keel("extract", model, "-o", "run", *given, "--dry-run", "--json", *CPU).json
    # 3 roles × 4 questions, and the default's 5 prompts × 4 questions
    assert (priced["roles"], priced["answers"]) == (3, 32)
    fewer = keel(
        *("extract", model, "-o", "run", *given, "--question-count", "3"),
        *("--dry-run", "--json", *CPU),
    ).json
    assert fewer["answers"] == 24


def test_a_check_leaves_nothing_behind(tmp_path):
    RunFolder(tmp_path / "new" / "run").check_free()
    assert contents(tmp_path) == {}
    assert not (tmp_path / "new").exists()
