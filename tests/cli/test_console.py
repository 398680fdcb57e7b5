"""Progress is seen wherever stderr goes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from keel.cli.console import Lines

QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "TERM": "xterm"}


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_log_grows_while_the_work_goes_on():
    """Once, `keel demo 2>log` said nothing until it was done: bars are drawn for terminals only."""
    code = (
        "import os\n"
        "from keel.cli import console\n"
        "with console.progress() as progress:\n"
        "    progress('answering', 0, 4)\n"
        "    os._exit(0)"  # killed in the middle: no bar is drawn at the end
    )
    done = subprocess.run([sys.executable, "-c", code], env=QUIET, capture_output=True, text=True)
    assert done.stderr == "answering: 0/4, 0 s\n"


def test_a_quick_stage_takes_two_lines(capsys, clock):
    lines = Lines(clock)
    for done in range(101):
        clock.now += 0.05
        lines("answering", done, 100)
    # 100 steps of 50 ms: over before ten seconds are.
    assert told(capsys) == ["answering: 0/100, 0 s", "answering: 100/100, 5 s"]


def test_a_slow_stage_takes_a_line_per_tenth(capsys, clock):
    lines = Lines(clock)
    for done in range(101):
        lines("answering", done, 100)
        clock.now += 60
    # A minute for each of 100: 10, 20, ... 100, and the start.
    expected = [f"answering: {n}/100, {60 * n} s" for n in range(0, 101, 10)]
    assert told(capsys) == expected


def test_between_two_lines_ten_seconds_pass(capsys, clock):
    lines = Lines(clock)
    for done in range(6):
        lines("judging", done, 5)
        clock.now += 4
    # A fifth every 4 s: the third step is the first after 10 s, the last one ends the stage.
    assert told(capsys) == ["judging: 0/5, 0 s", "judging: 3/5, 12 s", "judging: 5/5, 20 s"]


def test_stages_are_told_apart_and_each_ends_once(capsys, clock):
    lines = Lines(clock)
    for stage, done in (("answering", 2), ("mapping", 0), ("mapping", 2), ("mapping", 2)):
        lines(stage, done, 2)
        clock.now += 30
    # Each stage's seconds count from its own start.
    assert told(capsys) == ["answering: 2/2, 0 s", "mapping: 0/2, 0 s", "mapping: 2/2, 30 s"]
