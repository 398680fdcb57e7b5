"""What is wrong is said with the command that works: for slips between models, runs and files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
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


def file_of(name: str, content: bytes) -> Path:
    Path(name).write_bytes(content)
    return Path(name)


def zip_of(name: str, inside: str) -> Path:
    with zipfile.ZipFile(name, "w") as archive:
        archive.writestr(inside, "")
    return Path(name)


def folder_of(name: str) -> Path:
    Path("kept").mkdir()
    return file_of(f"kept/{name}", b"hello").parent


def control_vector() -> Path:
    """Of the tiny model's shape, from a program that does not say where default and roles lie."""
    from gguf import GGUFWriter

    writer = GGUFWriter("v.gguf", "controlvector")
    for block in range(1, 4):
        writer.add_tensor(f"direction.{block}", np.ones(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path("v.gguf")


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
        ("held is a run, expected a transcript; the run comes first: keel drift held t.json",),
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
    "a folder of runs where a model is wanted": (
        lambda run, model: ["extract", ".", "-o", "new"],
        (". is a folder of runs (held), expected a model: an alias (smollm2",),
    ),
    "a folder without a model": (
        lambda run, model: ["extract", folder_of("notes.txt"), "-o", "new"],
        ("kept is a folder without a config.json, expected a model's",),
    ),
    "a damaged GGUF file where a model is wanted": (
        lambda run, model: ["doctor", file_of("torn.gguf", b"GGUF\x03\0\0\0")],
        ("torn.gguf is no GGUF file of a model: its head is cut short or damaged; fetch it again",),
    ),
    "a control vector where a model is wanted": (
        lambda run, model: ["doctor", control_vector()],
        ("v.gguf is a control vector, expected a model's weights", "keel import v.gguf -o"),
    ),
    "a damaged control vector": (
        lambda run, model: [
            "import",
            file_of("torn.gguf", b"GGUF\x03\0\0\0"),
            "-o",
            "x.safetensors",
        ],
        ("torn.gguf is not a GGUF control vector: its head is cut short or damaged",),
    ),
    "a file to extract to": (
        lambda run, model: ["extract", model, "-o", spoken()],
        ("cannot write to t.json: t.json is a file, not a folder; choose another path",),
    ),
    "a folder of runs to extract to": (
        lambda run, model: ["extract", model, "-o", "."],
        (". is a folder of runs (held), expected a run's own; name one in it: -o NAME",),
    ),
    "a model's folder to extract to": (
        lambda run, model: ["extract", model, "-o", model],
        ("is a model's folder, expected a run's own; name another one, such as -o runs/",),
    ),
    "a GGUF file where a transcript is wanted": (
        lambda run, model: ["drift", run, file_of("w.gguf", b"GGUF\x03\0")],
        ("w.gguf is a GGUF file, of a model or a control vector, expected JSON",),
    ),
    "a packed file where a transcript is wanted": (
        lambda run, model: ["drift", run, file_of("t.json.gz", b"\x1f\x8b\x08")],
        ("t.json.gz is packed with gzip; unpack it: gunzip",),
    ),
    "an empty transcript": (
        lambda run, model: ["drift", run, file_of("e.json", b"")],
        ("e.json is empty, expected a conversation",),
    ),
    "a transcript of another shape": (
        lambda run, model: ["drift", run, file_of("w.json", b'{"a": 1}')],
        ("w.json has keys 'a', expected {\"messages\": [...]}", "docs/transcripts.md"),
    ),
    "a percentile beyond the scale": (
        lambda run, model: ["calibrate", run, "--percentile", "125"],
        ("percentile is 125, expected 1 to under 100, such as 75",),
    ),
    "a band beyond the model": (
        lambda run, model: ["calibrate", run, "--band", "3:9"],
        ("band 3:9 reaches past the model's 4 layers, expected START:STOP with STOP at most 4",),
    ),
    "a red team that is not there": (
        lambda run, model: ["evaluate", run, "jailbreak", "--data", "nowhere.json"],
        ("cannot read nowhere.json: No such file or directory",),
    ),
    "a red team of another kind": (
        lambda run, model: ["evaluate", run, "jailbreak", "--data", spoken()],
        ("t.json ends in '.json', expected .csv or .jsonl; save it so",),
    ),
    "a suite with a slip": (
        lambda run, model: ["evaluate", run, "jailbrake"],
        ("did you mean jailbreak?",),
    ),
    "an arm with a slip": (
        lambda run, model: ["evaluate", run, "jailbreak", "--arms", "caped"],
        ("unknown arm 'caped'; there are none, capped[:SETTING]",),
    ),
    "a judge with a slip": (
        lambda run, model: ["judge", "rollouts", run, "--judge", "heuristc"],
        ("judge is 'heuristc' (did you mean heuristic?), expected heuristic",),
    ),
    "a judge with a slip before its model": (
        lambda run, model: ["judge", "rollouts", run, "--judge", "OpenAI:gpt-4.1-mini"],
        ("judge is 'OpenAI:gpt-4.1-mini' (did you mean openai:gpt-4.1-mini?), expected",),
    ),
    "an alias with a slip where a run is wanted": (
        lambda run, model: ["report", "smolm2"],
        ("smolm2 is no run folder", "if it is a model, did you mean smollm2? keel extract smollm2"),
    ),
    "an alias in capitals where a run is wanted": (
        lambda run, model: ["chat", "SmolLM2"],
        (
            "SmolLM2 is no run folder",
            "if it is a model, did you mean smollm2? keel extract smollm2",
        ),
    ),
    "a setting with a slip to chat": (
        lambda run, model: ["chat", run, "--setting", "layers_1:3-p51"],
        ("there is no setting 'layers_1:3-p51'", "layers_1:3-p50"),
    ),
    "a role with a slip": (
        lambda run, model: ["prompts", "show", "ghos"],
        ("no role or trait is called 'ghos'; did you mean ghost",),
    ),
    "an axis written over a transcript": (
        lambda run, model: ["import", control_vector(), "-o", spoken()],
        ("t.json does not end in .safetensors", "name it t.safetensors"),
    ),
    "an axis written as another kind": (
        lambda run, model: ["export", run, "--to", "gguf", "-o", "axis.pt"],
        ("axis.pt does not end in .gguf", "name it axis.gguf"),
    ),
    "a vector without a finite strength": (
        lambda run, model: ["export", run, "--to", "gguf", "-o", "v.gguf", "--strength", "nan"],
        ("--strength is nan, expected a finite number; see keel export --help",),
    ),
    "a vector of no strength": (
        lambda run, model: ["export", run, "--to", "gguf", "-o", "v.gguf", "--strength", "0"],
        ("strength is 0, expected a share of the residual norm such as 0.1 or -0.1",),
    ),
    "an address of a store with one slash": (
        lambda run, model: ["export", run, "--to", "run", "-o", "s3:/bucket/run"],
        ("s3:/bucket/run is no URL, expected two slashes",),
    ),
    "a port that is none": (
        lambda run, model: ["ui", run, "--port", "99999"],
        ("Invalid value for '--port'", "65535", "see keel ui --help"),
    ),
    "an axis that is no file of vectors": (
        lambda run, model: ["chat", model, "--axis", spoken()],
        ("t.json is no file of vectors, expected .pt",),
    ),
    "a transcript to serve": (
        lambda run, model: ["serve", spoken()],
        ("t.json is no file of floors, expected .safetensors, a capping_config.pt",),
    ),
    "an address without a host": (
        lambda run, model: ["check", "http://"],
        ("http:// is no address, expected http://HOST:PORT such as http://localhost:8000",),
    ),
    "figures into a file": (
        lambda run, model: ["report", run, "--figures", spoken()],
        ("t.json is a file or lies below one, expected a folder",),
    ),
    "a demo where nothing can be made": (
        lambda run, model: ["demo", "-o", f"{spoken()}/demo"],
        ("t.json is a file, not a folder; choose another path",),
    ),
    "a run given twice": (
        lambda run, model: ["compare", run, run],
        ("a run is given twice; name two different ones",),
    ),
    "a subcommand without its file": (
        lambda run, model: ["drift", "watch", run],
        ("Missing argument 'FILE...'", "see keel drift watch --help"),
    ),
    "a command with a slip": (
        lambda run, model: ["reprot", run],
        ("No such command 'reprot'. Did you mean 'report'",),
    ),
    "an option with a slip": (
        lambda run, model: ["report", run, "--markdwon"],
        ("No such option: --markdwon", "--markdown", "see keel report --help"),
    ),
    "a replay's arguments swapped": (
        lambda run, model: ["drift", "replay", spoken(), run],
        ("the run comes first: keel drift replay held t.json",),
    ),
    "a watch's arguments swapped": (
        lambda run, model: ["drift", "watch", spoken(), run],
        ("the run comes first: keel drift watch held t.json",),
    ),
    "an evaluation's arguments swapped": (
        lambda run, model: ["evaluate", "jailbreak", run],
        ("held is a run, expected a suite; the run comes first: keel evaluate held jailbreak",),
    ),
    "a run where an alarm's conversations are wanted": (
        lambda run, model: ["drift", "calibrate", run, "--chats", run],
        ("held is a run, expected a transcript; give a file of conversations",),
    ),
    "a judge of a study that judges nothing": (
        lambda run, model: ["drift", "study", run, "--judge", "heuristik"],
        ("nothing is judged without --harm; add it, or leave out --judge",),
    ),
    "a run's file where the run is wanted": (
        lambda run, model: ["info", run / "axis.safetensors"],
        ("held/axis.safetensors lies in a run", "give that: held"),
    ),
    "a run's report where the run is wanted, not made yet": (
        lambda run, model: ["report", run / "report.html"],
        ("held/report.html lies in a run", "give that: held"),
    ),
    "a run's evaluations where the run is wanted": (
        lambda run, model: ["evaluate", run / "evaluations", "jailbreak"],
        ("held/evaluations lies in a run", "give that: held"),
    ),
    "a model's config where the model is wanted": (
        lambda run, model: ["extract", model / "config.json", "-o", "new"],
        ("config.json is a file of a model, expected the model's folder; give that: /",),
    ),
    "a model's weights that are imported": (
        lambda run, model: ["import", model / "model.safetensors", "-o", "x.safetensors"],
        ("model.safetensors is a safetensors file of another program, expected a Keel file",),
    ),
    "floors that are imported as an axis": (
        lambda run, model: ["import", run / "floors.safetensors", "-o", "x.safetensors"],
        ("floors.safetensors is a Keel file of kind floors, expected one of kind axis",),
    ),
    "a run copied onto itself": (
        lambda run, model: ["export", run, "--to", "run", "-o", run],
        ("held is the run itself; give another folder or URL",),
    ),
    "a file where an address is wanted": (
        lambda run, model: ["check", spoken()],
        ("t.json is no address, expected http://HOST:PORT such as http://localhost:8000",),
    ),
    "one judge of a run": (
        lambda run, model: ["judge", "agree", run, "likelihood"],
        ("keel judge agree held likelihood OTHER",),
    ),
    "a text in which nobody speaks": (
        lambda run, model: ["drift", run, file_of("notes.md", b"# Notes\n\nBuy milk.\n")],
        ("notes.md has no line that begins with User: or Assistant:", "write there who speaks"),
    ),
    "a saved page": (
        lambda run, model: ["drift", run, file_of("chat.html", b"<!DOCTYPE html><p>Hi")],
        ("chat.html is a page, expected JSON", "give the conversations.json of the export"),
    ),
    "vectors where a transcript is wanted": (
        lambda run, model: ["drift", run, run / "axis.safetensors"],
        ("axis.safetensors is a safetensors file of weights or vectors, expected JSON",),
    ),
    "a workbook where a transcript is wanted": (
        lambda run, model: ["drift", run, zip_of("t.xlsx", "xl/workbook.xml")],
        ("t.xlsx is an Excel workbook; save its sheet as CSV",),
    ),
    "tensors where a transcript is wanted": (
        lambda run, model: ["drift", run, zip_of("t.pt", "archive/data.pkl")],
        ("t.pt is a file of torch's tensors, expected JSON",),
    ),
    "a folder of transcripts": (
        lambda run, model: ["drift", run, folder_of("notes.txt")],
        ("kept is a folder, expected a file; name its files: kept/*.txt",),
    ),
    "a folder without transcripts": (
        lambda run, model: ["drift", run, folder_of("picture.png")],
        ("kept is a folder, expected a file; it has none that ends in .json",),
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
