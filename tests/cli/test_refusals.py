"""What cannot be done is said in one line, on stderr, with exit code 3, and leaves nothing behind.

The line says what was given, what was expected, and what to do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from keel.testing import save_tiny_model
from tests.cli.commands import CPU, SMALL, Outcome, contents, talk

ROLE = {"system_prompts": ["one", "two", "three", "four", "five"]}


def check_refused(found: Outcome, *said: str) -> None:
    """One line, of ours, that says all of this; nothing on stdout."""
    assert found.code == 3
    assert found.out == ""
    lines = found.err.splitlines()
    assert len(lines) == 1, found.err
    assert lines[0].startswith("keel: ")
    for words in said:
        assert words in lines[0]


def role_file(folder: Path, name: str, record: dict[str, object]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


BAD_EXTRACTIONS: dict[str, tuple[Callable[[Path], list[object]], tuple[str, ...]]] = {
    "role file with an unknown key": (
        lambda place: [
            "--roles",
            role_file(place / "roles", "ghost", {"name": "ghost", **ROLE, "rubrik": "?"}),
        ],
        ("ghost.json", "rubrik", "known keys: name, system_prompts", "kind"),
    ),
    "role file with too few prompts": (
        lambda place: [
            "--roles",
            role_file(place / "roles", "ghost", {"name": "ghost", "system_prompts": ["one"]}),
        ],
        ("ghost.json", "has 1 system prompts, expected 5", "add or remove some"),
    ),
    "role folder without files": (
        lambda place: ["--roles", (place / "roles").mkdir() or "roles"],
        ("roles has no role files", "expected NAME.json", "roles.jsonl"),
    ),
    "role folder that is not there": (
        lambda place: ["--roles", "nowhere"],
        ("nowhere is no folder", "give one with JSON files"),
    ),
    "question file without questions": (
        lambda place: ["--questions", (place / "q.jsonl").write_text("\n") and "q.jsonl"],
        ("q.jsonl has no questions", "give one a line"),
    ),
    "question file that is not JSON": (
        lambda place: ["--questions", (place / "q.jsonl").write_text("{who\n") and "q.jsonl"],
        ("q.jsonl, line 1", "not JSON"),
    ),
    "more roles than there are": (
        lambda place: ["--role-count", "4000"],
        ("4000 roles are asked for", "the library has"),
    ),
    "fewer answers a role than a role needs": (
        lambda place: [*SMALL, "--min-count", "5"],
        ("would answer 4 times", "expected 5 or more", "--question-count, --min-count"),
    ),
    "labels that no judge gives": (
        lambda place: [*SMALL, "--label", "fully"],
        ("--label is 'fully'", "nothing is judged", "--judge"),
    ),
    "number below its range": (
        lambda place: ["--question-count", "1"],
        ("--question-count", "greater than or equal to 2", "see keel extract --help"),
    ),
    "scale that is none": (
        lambda place: ["--scale", "huge"],
        ("'huge'", "'smoke'", "'small'", "'paper'", "see keel extract --help"),
    ),
    "device that is none": (
        lambda place: ["--device", "cuda:99"],
        ("device 'cuda:99' cannot be used", "try auto or cpu"),
    ),
    "dtype that is none": (
        lambda place: ["--dtype", "float7"],
        ("dtype is 'float7'", "expected auto, bfloat16"),
    ),
    "blocks that are not there": (
        lambda place: [*CPU, "--blocks", "model.layer"],
        ("model.layer",),
    ),
    "unknown option": (
        lambda place: ["--frob"],
        ("No such option: --frob", "see keel extract --help"),
    ),
}


@pytest.mark.parametrize("case", BAD_EXTRACTIONS)
def test_an_extraction_that_cannot_be_is_refused_and_leaves_nothing(keel, model, place, case):
    arguments, said = BAD_EXTRACTIONS[case]
    given = arguments(place)
    before = contents(place)
    check_refused(keel("extract", model, "-o", "run", *given), *said)
    assert not (place / "run").exists()
    assert contents(place) == before


NULLS = {
    "seeds without a null": (["--null-seeds", "4"], "add --null untrained"),
    "of traits": (["--null", "untrained", "--what", "traits"], "--what both, or leave it out"),
    "on a cluster": (["--null", "untrained", "--cluster", "auto"], "which a cluster has not"),
    "of no seed": (["--null", "untrained", "--null-seeds", "0"], "--null-seeds"),
}


@pytest.mark.parametrize("case", NULLS)
def test_a_null_that_cannot_be_is_refused_before_a_model_is_loaded(keel, place, case):
    options, words = NULLS[case]
    found = keel("extract", "no-such-model", "-o", "run", *options)
    assert found.code in (2, 3)
    assert words in " ".join(found.err.split())
    assert contents(place) == {}


def test_an_unknown_model_is_refused_without_a_network(place):
    """In a process of its own: that there is no network is read when transformers loads."""
    command = ["extract", "nobody/no-such-model", "-o", "run"]
    code = f"from keel.cli import main; main({command!r})"
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **quiet}, capture_output=True, text=True
    )
    # On a busy machine it also says what it waits for.
    said = [line for line in done.stderr.splitlines(True) if not line.startswith("loading ")]
    found = Outcome(done.returncode, done.stdout, "".join(said))
    check_refused(found, "'nobody/no-such-model'", "expected an alias (smollm2), a hub id")
    assert contents(place) == {}


def test_a_folder_that_holds_no_model_is_refused(keel, place):
    (place / "empty").mkdir()
    found = keel("extract", "./empty", "-o", "run")
    check_refused(found, "./empty is a folder without a config.json", "an alias (smollm2")
    assert not (place / "run").exists()


BAD_QUESTIONS_TO_A_RUN: dict[str, tuple[Callable[[Path], list[object]], tuple[str, ...]]] = {
    "band past the last layer": (
        lambda run: ["calibrate", run, "--band", "2:9"],
        ("band 2:9", "the model's 4 layers"),
    ),
    "band that is none": (
        lambda run: ["calibrate", run, "--band", "late"],
        ("band is 'late'", "expected START:STOP such as"),
    ),
    "band turned round": (
        lambda run: ["calibrate", run, "--band", "3:2"],
        ("band is 3:2", "expected START:STOP, START < STOP"),
    ),
    "percentile that is none": (
        lambda run: ["calibrate", run, "--percentile", "150"],
        ("percentile is 150", "expected 1 to under 100"),
    ),
    "price bound of nothing": (
        lambda run: ["calibrate", run, "--price-bound", "0"],
        ("price bound is 0", "expected above 0"),
    ),
    "transcript without answers": (
        lambda run: ["drift", run, talk(run.parent / "t.json", ("user", "Hello?")), *CPU],
        ("conversation 't' has 1 message", "no assistant turn", "add answers"),
    ),
    "transcript that is not there": (
        lambda run: ["drift", run, "nowhere.json"],
        ("no file nowhere.json", "give the path of a transcript"),
    ),
    "transcript that is no JSON": (
        lambda run: [
            "drift",
            run,
            (run.parent / "t.json").write_text("hello") and "t.json",
        ],
        ("t.json is not valid JSON", "mend it there"),
    ),
    "one bad transcript among good ones": (
        lambda run: [
            "drift",
            run,
            talk(run.parent / "good.json", ("user", "Hi"), ("assistant", "Hello")),
            talk(run.parent / "bad.json", ("user", "Hello?")),
            *CPU,
        ],
        ("conversation 'bad'", "no assistant turn"),
    ),
    "layer that the model lacks": (
        lambda run: [
            "drift",
            run,
            talk(run.parent / "t.json", ("user", "Hi"), ("assistant", "Hello")),
            *("--layer", "9", *CPU),
        ],
        ("layer is 9", "expected 0 to 3"),
    ),
    "unknown setting": (
        lambda run: [
            "drift",
            run,
            talk(run.parent / "t.json", ("user", "Hi"), ("assistant", "Hello")),
            *("--setting", "layers_1:3-p57", *CPU),
        ],
        ("no setting 'layers_1:3-p57' among the 4", "near it: layers_1:3-p"),
    ),
    "unknown setting in a chat": (
        lambda run: ["chat", run, "--setting", "p75"],
        ("no setting 'p75'", "near it: ", "layers_1:3-p75"),
    ),
    "unknown setting to export": (
        lambda run: ["export", run, "--to", "capping-config", "--setting", "p75", "-o", "c.pt"],
        ("no setting 'p75'", "near it: ", "layers_1:3-p75"),
    ),
    "control vector on block 0": (
        lambda run: ["export", run, "--to", "gguf", "--band", "0:2", "-o", "c.gguf"],
        ("layers are [0, 1]", "expected some of 1 to 3", "choose others"),
    ),
    "target that is none": (
        lambda run: ["export", run, "--to", "onnx", "-o", "c.onnx"],
        ("'onnx'", "'axis-pt'", "see keel export --help"),
    ),
    "other options on the same folder": (
        lambda run: ["extract", run_model(run), "-o", run, *SMALL, "--seed", "1"],
        ("begun with other inputs", "seed 0 → 1", "choose another folder with -o"),
    ),
    "an engine's setting that it has not": (
        lambda run: ["calibrate", run, "--engine", "vllm:eagre=true"],
        ("no setting eagre", "there are dtype, eager"),
    ),
    "an option's setting behind the engine": (
        lambda run: ["calibrate", run, "--engine", "transformers:trust_remote_code=true"],
        ("give --trust-remote-code as an option of its own",),
    ),
    "a device for vLLM": (
        lambda run: ["calibrate", run, "--engine", "vllm", "--device", "cpu"],
        ("vLLM chooses device and blocks itself", "leave out --device"),
    ),
    "roles for the report that are not there": (
        lambda run: ["report", run, "--roles", "nowhere"],
        ("nowhere is no folder",),
    ),
}


def run_model(run: Path) -> str:
    """The model that a run was made on."""
    found = json.loads((run / "manifest.json").read_bytes())["identity"]["model_id"]
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("case", BAD_QUESTIONS_TO_A_RUN)
def test_what_a_run_cannot_answer_is_refused_and_leaves_it_as_it_is(keel, held, place, case):
    arguments, said = BAD_QUESTIONS_TO_A_RUN[case]
    given = arguments(place / held)
    before = contents(place)
    check_refused(keel(*given), *said)
    assert contents(place) == before


ON_A_RUN = {
    "judge": lambda run: ["judge", run],
    "calibrate": lambda run: ["calibrate", run],
    "chat": lambda run: ["chat", run],
    "drift": lambda run: [
        "drift",
        run,
        talk(Path("t.json"), ("user", "Hi"), ("assistant", "Hello")),
    ],
    "report": lambda run: ["report", run],
    "markdown": lambda run: ["report", run, "--markdown"],
    "export": lambda run: ["export", run, "-o", "axis.safetensors"],
}


@pytest.mark.parametrize("command", ON_A_RUN)
def test_a_run_that_is_not_there_is_refused_with_the_command_that_makes_it(keel, place, command):
    given = ON_A_RUN[command]("nowhere")
    check_refused(keel(*given), "nowhere is no run folder", "keel extract MODEL -o nowhere")
    assert not (place / "nowhere").exists()


@pytest.mark.parametrize("command", ON_A_RUN)
def test_an_unfinished_run_is_refused_with_the_command_that_goes_on(keel, bare, place, command):
    (bare / "manifest.json").unlink()
    given = ON_A_RUN[command](bare)
    before = contents(place)
    check_refused(keel(*given), "is not finished", "go on with: keel extract")
    assert contents(place) == before


@pytest.mark.parametrize("command", ["calibrate", "drift", "chat", "report", "export"])
def test_an_axis_with_one_byte_flipped_is_refused(keel, bare, place, command):
    """In the middle of its numbers, where the file stays a valid one."""
    axis = bare / "axis.safetensors"
    data = bytearray(axis.read_bytes())
    data[-40] ^= 1
    axis.write_bytes(data)
    given = ON_A_RUN[command](bare)
    before = contents(place)
    check_refused(keel(*given), "axis.safetensors has SHA-256", "restore it from a copy")
    assert contents(place) == before


@pytest.mark.parametrize("command", ["judge", "calibrate", "chat", "drift"])
def test_a_run_of_another_model_is_refused(keel, bare_run, place, command):
    """The model's folder has got other weights of the same shape since."""
    model = save_tiny_model(place / "model", "llama")
    assert keel("extract", model, "-o", "run", *SMALL).code == 0
    save_tiny_model(model, "llama", seed=1)
    given = ON_A_RUN[command](Path("run"))
    before = contents(place)
    check_refused(keel(*given, *CPU), "another model", "weights_hash", "use ")
    assert contents(place) == before


def test_a_chat_that_shall_be_capped_needs_floors(keel, bare):
    check_refused(keel("chat", bare, "--capped", *CPU), "no floors", "keel calibrate")


def test_a_replay_reads_no_thinking_of_given_turns(keel, bare, tmp_path):
    file = talk(tmp_path / "talk.json")
    outcome = keel("drift", bare, file, "--replay", "--spans", "both", *CPU)
    check_refused(outcome, "--spans both", "leave out --replay or --spans")


def test_a_replay_needs_floors(keel, bare):
    file = talk(Path("t.json"), ("user", "Hi"))
    found = keel("drift", bare, file, "--replay", *CPU)
    check_refused(found, "has no floors", f"keel calibrate {bare}")


def test_what_drift_cannot_do_is_refused_before_a_model_is_loaded(keel, place):
    """The model's folder is gone: to load it would be another error."""
    model = save_tiny_model(place / "model", "llama")
    assert keel("extract", model, "-o", "run", *SMALL).code == 0
    shutil.rmtree(model)
    answered = talk(place / "a.json", ("user", "Hi"), ("assistant", "Hello"))
    unanswered = talk(place / "u.json", ("user", "Hi"))
    for file, options, said in (
        (answered, ["--false-alarms", "1.5"], "false alarms are 1.5"),
        (answered, ["--layer", "9"], "layer is 9"),
        (answered, ["--replay"], "has no floors"),
        (answered, ["--setting", "p75"], "keel calibrate"),
        (unanswered, [], "no assistant turn"),
    ):
        check_refused(keel("drift", "run", file, *options, *CPU), said)


BAD_IMPORTS: dict[str, tuple[Callable[[Path], list[object]], tuple[str, ...]]] = {
    "file that is not there": (
        lambda place: ["nowhere.pt"],
        ("nowhere.pt is not there", "point at a file, a run folder, or a hub id"),
    ),
    "contrast vectors that do not say their sign": (
        lambda place: [torch.save(torch.ones(4, 32), "contrast.pt") or "contrast.pt"],
        ("does not say its sign", "role-ward", "orientation"),
    ),
    "axis of another shape": (
        lambda place: [
            torch.save({"axis": torch.ones(4, 32)}, "axis.pt") or "axis.pt",
            "--model",
            save_tiny_model(place / "narrow", "llama", hidden=16),
        ],
        ("axis.pt was made on another model", "4 layers × 32", "4 × 16"),
    ),
    "no tensor file at all": (
        lambda place: [(place / "axis.pt").write_bytes(b"hello") and "axis.pt"],
        ("axis.pt",),
    ),
}


@pytest.mark.parametrize("case", BAD_IMPORTS)
def test_what_cannot_be_imported_is_refused_and_not_half_written(keel, place, case):
    arguments, said = BAD_IMPORTS[case]
    given = arguments(place)
    before = contents(place)
    check_refused(keel("import", *given, "-o", "out.safetensors"), *said)
    assert contents(place) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frob"], ("No such command 'frob'", "see keel --help")),
        (["extrakt"], ("'extrakt'", "see keel --help")),
        (["--frob"], ("--frob", "see keel --help")),
        (["extract"], ("Missing argument", "see keel extract --help")),
        (["extract", "m"], ("Missing option", "--out", "see keel extract --help")),
        (["drift", "run"], ("Missing argument", "see keel drift read --help")),
    ],
)
def test_what_is_no_command_is_refused_with_the_help_to_read(keel, arguments, said):
    """Once, after an unknown command, the help of that very command was named."""
    check_refused(keel(*arguments), *said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--people", "3"], "--people is 3, but --transcripts simulates nobody"),
        (["--long"], "leave out --long"),
        (["--arms", "none,prompt"], "leave out --arms, or add --harm"),
    ],
)
def test_options_of_simulated_users_are_refused_with_given_conversations(
    keel, bare, tmp_path, options, said
):
    file = tmp_path / "talk.json"
    spoken = [{"role": r, "content": "Hello."} for r in ("user", "assistant")]
    file.write_text(json.dumps({"messages": spoken}))
    check_refused(keel("drift", "study", bare, "--transcripts", file, *options), said)


def test_skipping_given_conversations_is_refused_where_none_are_given(keel, bare):
    check_refused(keel("drift", "study", bare, "--skip-unreadable"), "is of --transcripts")
