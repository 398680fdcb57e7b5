"""Help is at hand at once: it shows an example, and loads no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from keel import __version__
from keel.cli.app import make_app

COMMANDS = [str(command.name) for command in make_app().registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_an_example(keel, command):
    found = keel(command, "--help")
    assert (found.code, found.err) == (0, "")
    _, _, examples = found.out.partition("Examples:")
    assert f"keel {command}" in examples


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_answer_in_json(keel, command):
    assert "--json" in keel(command, "--help").out


def test_the_help_lists_every_command_and_shows_an_example(keel):
    found = keel("--help")
    assert found.code == 0
    overview, _, examples = found.out.partition("Examples:")
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
