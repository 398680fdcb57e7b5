"""A value that no command can use is refused before anything heavy is imported."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer.main

from keel.cli.app import make_app
from keel.cli.help import PlainCommand
from keel.errors import UsageError
from tests.cli.test_help import every_command

LEAVES = {
    words: command
    for words, command in every_command(typer.main.get_command(make_app()))
    if not hasattr(command, "commands")
}


def kind(parameter: Any) -> Any:
    """What typer reads; of a list, each."""
    annotation = parameter.type_descriptor.annotation
    return get_args(annotation)[0] if get_origin(annotation) is list else annotation


def word_for(parameter: Any) -> str:
    """A value that the parameter takes."""
    choices = get_args(kind(parameter))
    return choices[0] if choices else "nowhere"


def needed(command: Any, *, but: Any = None) -> list[str]:
    """The words without which the line is not whole, a blank in the stead of `but`."""
    words = []
    for parameter in command.params:
        if parameter.required or parameter is but:
            words += [parameter.opts[0]] if parameter.param_type_name == "option" else []
            words.append("" if parameter is but else word_for(parameter))
    return words


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_an_empty_value_is_refused_by_every_argument_and_option(words):
    """`keel report "$RUN"` with no RUN set was read as the folder that it was called in, and
    `keel extract MODEL -o "$OUT"` began a run there."""
    command = LEAVES[words]
    assert isinstance(command, PlainCommand)
    for parameter in command.params:
        if kind(parameter) in (str, Path) and parameter.opts[0] != "--system":
            with pytest.raises(UsageError, match="is empty, expected a value"):
                command.make_context("keel", needed(command, but=parameter))


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
@pytest.mark.parametrize("number", ["nan", "1e999"])
def test_a_number_that_is_none_is_refused_by_every_option(words, number):
    command = LEAVES[words]
    for parameter in command.params:
        if kind(parameter) is float:
            line = [*needed(command), f"{parameter.opts[0]}={number}"]
            with pytest.raises((UsageError, typer.TyperException), match="finite|greater|less"):
                command.make_context("keel", line)


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_a_seed_a_count_and_a_rate_below_0_are_refused_on_the_line(words):
    """`--seed -1` and `--rate -1` were refused after the run was opened and torch imported."""
    names = {"--seed", "--choice-seed", "--rate", "--price-bound"}
    command = LEAVES[words]
    for option in names.intersection(o for p in command.params for o in p.opts):
        with pytest.raises((UsageError, typer.TyperException), match="greater|less"):
            command.make_context("keel", [*needed(command), f"{option}=-1"])


BAD_WORDS = {
    "--engine": {
        "transfomers": "engine is 'transfomers', expected 'transformers' or 'vllm'",
        "vllm:eagr=true": "the vllm engine has no setting eagr",
        "transformers:static=perhaps": "static is 'perhaps'",
        "transformers:dtype=float32": "give --dtype as an option of its own",
    },
    "--device": {"gpu": "device is 'gpu', expected auto, cpu, cuda,", "cuda:": "device is 'cuda:'"},
    "--dtype": {"fp16": "dtype is 'fp16', expected auto, bfloat16"},
    "--spans": {"thoughts": "'thoughts' is not one of 'answer', 'thinking', 'both'"},
}
EACH_WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from keel.cli import run
for line in {lines}:
    print(run(line), file=sys.stderr)
"""


@pytest.mark.parametrize("option", BAD_WORDS)
def test_a_bad_word_for_the_model_is_refused_by_every_command_without_torch(tmp_path, option):
    """`keel extract ./model --engine transfomers` took 5 s of imports to say so."""
    lines, expected = [], []
    words_in_turn = itertools.cycle(BAD_WORDS[option].items())
    for words, command in LEAVES.items():
        if option in (name for parameter in command.params for name in parameter.opts):
            word, said = next(words_in_turn)
            lines.append([*words, *needed(command), option, word])
            expected.append(said)
    assert len(lines) >= 3  # so that the option was looked for under its name
    program = EACH_WITHOUT_TORCH.format(lines=lines)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert ended.returncode == 0, ended.stderr
    *refusals, _ = ended.stderr.split("\n3\n")
    assert len(refusals) == len(lines)
    for line, refusal, said in zip(lines, refusals, expected, strict=True):
        assert said in refusal, line


REFUSED = {
    ("chat", "nowhere", "--temperature", "inf"): "--temperature is inf, expected a finite number",
    ("drift", "study", "nowhere", "--max-usd", "-1"): "max_cost_usd is -1",
    ("drift", "replay", "nowhere", ""): "FILE is empty",
    ("extract", "", "-o", "x"): "MODEL is empty",
    ("report", ""): "RUN is empty",
    ("report", "smolm2"): "did you mean smollm2?",
    ("info", "SmolLM-2"): "did you mean smollm2?",
}
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from keel.cli import run
sys.exit(run({line}))
"""


@pytest.mark.parametrize(("line", "said"), REFUSED.items(), ids=str)
def test_what_no_command_can_use_is_refused_without_torch(tmp_path, line, said):
    """Of 7.5 s until `--temperature inf` was refused, and 4 s until a slip in a model's name was
    answered, torch took nearly all."""
    program = WITHOUT_TORCH.format(line=list(line))
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert ended.returncode == 3, ended.stderr
    assert said in ended.stderr
