"""A bug shows its traceback, Ctrl-C and a reader who has gone do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keel.cli import run

QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make every command that opens a run fail with this."""

    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr("keel.store.open_run", fail)


def test_a_bug_is_not_swallowed(monkeypatch):
    raising(monkeypatch, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        run(["calibrate", "run"])


def test_a_bug_ends_with_1_and_a_traceback():
    code = (
        "import keel.store; keel.store.open_run = lambda path: 1 / 0\n"
        "from keel.cli import main; main(['calibrate', 'run'])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=QUIET, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EOFError()], ids=["Ctrl-C", "Ctrl-D"])
def test_an_interruption_ends_with_130_and_says_how_to_go_on(monkeypatch, keel, error):
    """Once, Ctrl-C said nothing, and the end of the input was a traceback."""
    raising(monkeypatch, error)
    found = keel("calibrate", "run")
    assert (found.code, found.out) == (130, "")
    assert found.err.strip() == "keel: interrupted; run the same command again to go on"


def test_main_exits_with_the_code():
    with pytest.raises(SystemExit) as ended:
        run_main("frob")
    assert ended.value.code == 3


def run_main(*arguments: str) -> None:
    from keel.cli import main

    main(list(arguments))


@pytest.mark.parametrize("argument", ["--help", "--version"])
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["met at the end", "met while writing"])
def test_a_reader_who_has_gone_is_no_error(argument, unbuffered):
    """As with `keel --help | head -1`: the pipe is closed before anything is written."""
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-c", f"from keel.cli import main; main([{argument!r}])"],
        env={**QUIET, "PYTHONUNBUFFERED": unbuffered},
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, "")
