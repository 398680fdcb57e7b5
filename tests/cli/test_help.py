"""Help is at hand at once: it shows an example, and loads no torch."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from keel import __version__
from keel.cli.app import make_app


def every_command(group: Any, *before: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command and each of its own commands, with the words that call it."""
    for name, command in group.commands.items():
        yield (*before, name), command
        yield from every_command(command, *before, name) if hasattr(command, "commands") else ()


COMMANDS = [str(command.name) for command in make_app().registered_commands]
CALLED = dict(every_command(typer.main.get_command(make_app())))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_an_example(keel, command):
    found = keel(command, "--help")
    assert (found.code, found.err) == (0, "")
    _, _, examples = found.out.partition("Examples:")
    assert f"keel {command}" in examples


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_answer_in_json(keel, command):
    assert "--json" in keel(command, "--help").out


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("called", CALLED, ids=" ".join)
def test_help_loses_nothing_and_is_no_wider_than_the_terminal(keel, monkeypatch, called, columns):
    """A word that was longer than a table's column ended in an ellipsis once, and help was 50
    columns wide in a terminal of 40, its examples up to 157."""
    monkeypatch.setenv("COLUMNS", str(columns))
    text = keel(*called, "--help").out
    assert max(map(len, text.splitlines())) <= columns
    packed = "".join(text.split())
    for parameter in CALLED[called].params:
        if not getattr(parameter, "hidden", False):
            names = parameter.opts if parameter.param_type_name == "option" else []
            for words in (*names, *parameter.secondary_opts, parameter.help or ""):
                assert "".join(words.split()) in packed


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("called", CALLED, ids=" ".join)
def test_an_example_that_is_pasted_is_read_as_it_is_meant(keel, monkeypatch, called, columns):
    """Whatever the terminal's width: a line that goes on ends in a backslash."""
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = keel(*called, "--help").out.partition("Examples:")[2].replace("\\\n", "")
    meant = (CALLED[called].epilog or "").partition("Examples:")[2]
    read = [shlex.split(line) for line in shown.splitlines() if line.strip()]
    assert read == [shlex.split(line) for line in meant.splitlines() if line.strip()]


@pytest.mark.parametrize("called", [(), *CALLED], ids=" ".join)
def test_h_is_help(keel, called):
    assert keel(*called, "-h") == keel(*called, "--help")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("keel ", {"demo", "ls", "info"}),
        ("keel calibrate --max-", {"--max-price", "--max-settings"}),
    ],
)
def test_a_shell_can_complete_commands_and_options(words, expected):
    done = subprocess.run(
        [sys.executable, "-m", "keel"],
        env={
            **os.environ,
            "_KEEL_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert expected <= set(done.stdout.split())


@pytest.mark.parametrize("sign", [" ", "="])
@pytest.mark.parametrize(
    ("shell", "mark"),
    [
        ("bash", "complete -o default -F _keel_completion keel"),
        ("zsh", "#compdef keel"),
        ("fish", "complete --command keel"),
        ("powershell", "Register-ArgumentCompleter"),
        ("pwsh", "Register-ArgumentCompleter"),
    ],
)
def test_the_completion_of_the_shell_that_is_named_is_shown(keel, capsys, shell, mark, sign):
    """Typed in bash, `--show-completion zsh` showed bash's."""
    with pytest.raises(SystemExit, match="0"):
        keel(*f"--show-completion{sign}{shell}".split())
    assert mark in capsys.readouterr().out


def test_completion_is_installed_for_the_shell_that_is_named(keel, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit, match="0"):
        keel("--install-completion", "zsh")
    assert "#compdef keel" in (tmp_path / ".zfunc/_keel").read_text()
    assert not (tmp_path / ".bashrc").exists()


def test_a_shell_without_completion_is_refused_with_those_that_have_it(keel):
    done = keel("--show-completion", "tcsh")
    assert (done.code, done.err) == (
        3,
        "keel: --show-completion 'tcsh' is no shell that has completion, expected bash, zsh, fish, "
        "powershell or pwsh; name one of these\n",
    )


def test_the_help_lists_every_command_and_shows_an_example(keel):
    found = keel("--help")
    assert found.code == 0
    overview, _, examples = found.out.partition("Examples:")
    assert "..." not in overview.partition("Commands:")[2]
    assert all(f" {command} " in overview for command in COMMANDS)
    assert "keel demo" in examples


def test_nothing_asked_is_help_asked(keel):
    """Once, it ended with `keel: ; see keel --help`."""
    assert keel() == keel("--help")


def test_the_version_is_shown(keel):
    assert keel("--version").out == f"{__version__}\n"


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "keel", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")


def test_no_help_loads_torch():
    """In a process of its own, since this one has it."""
    code = f"""
import sys
from keel.cli import run
for command in {COMMANDS!r}:
    assert run([command, "--help"]) == 0
assert run(["--help"]) == run([]) == run(["--version"]) == 0
assert run(["frob"]) == run(["extract", "--frob"]) == 3
heavy = {{"torch", "transformers", "numpy", "sklearn"}} & set(sys.modules)
sys.exit(f"loaded {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
