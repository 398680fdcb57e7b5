"""Progress is seen wherever stderr goes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time

import pytest
from rich.console import Console

from keel.cli.console import Bars, Lines, bars_on, print_price, waiting

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
    between = [
        f"answering: {n}/100, {60 * n} s, about {60 * (100 - n)} s left" for n in range(10, 100, 10)
    ]
    assert told(capsys) == ["answering: 0/100, 0 s", *between, "answering: 100/100, 6000 s"]


def test_what_was_done_before_takes_no_time_of_what_is_left(capsys, clock):
    lines = Lines(clock)
    lines("answering", 80, 100)
    clock.now += 20
    lines("answering", 90, 100)
    # 10 in 20 s, so the other 10 take 20 s; over all 90 it would be 2 s.
    assert told(capsys)[-1] == "answering: 90/100, 20 s, about 20 s left"


def test_fifteen_silent_seconds_end_with_a_line(capsys, clock):
    """Once, beside other work nothing was said for 24 minutes."""
    lines = Lines(clock)
    lines("answering", 0, 400)
    for _ in range(40):
        clock.now += 1
        lines.beat()
    lines("answering", 400, 400)
    clock.now += 100
    lines.beat()
    assert told(capsys) == [
        "answering: 0/400, 0 s",
        "answering: 0/400, 15 s",
        "answering: 0/400, 30 s",
        "answering: 400/400, 40 s",
    ]


def test_without_a_terminal_a_wait_is_told_in_lines(capsys):
    with waiting("loading m", every_s=0.01):
        time.sleep(0.2)
    assert told(capsys)[0] == "loading m: 0 s"


def test_threads_wait_without_spinning_unless_told_otherwise():
    """With load 12 on two cores, spinning threads gave 0.4 passes per second, sleeping ones 8."""
    code = (
        "import os, sys\n"
        "from keel.cli import main\n"
        "try:\n"
        "    main(['--version'])\n"
        "except SystemExit:\n"
        "    print(os.environ['OMP_WAIT_POLICY'])\n"
    )
    for given, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        bare = {name: value for name, value in QUIET.items() if name != "OMP_WAIT_POLICY"}
        done = subprocess.run(
            [sys.executable, "-c", code], env={**bare, **given}, capture_output=True, text=True
        )
        assert done.stdout.splitlines()[-1] == expected


def test_between_two_lines_ten_seconds_pass(capsys, clock):
    lines = Lines(clock)
    for done in range(6):
        lines("judging", done, 5)
        clock.now += 4
    # A fifth every 4 s: the third step is the first after 10 s, the last one ends the stage.
    assert told(capsys) == [
        "judging: 0/5, 0 s",
        "judging: 3/5, 12 s, about 8 s left",
        "judging: 5/5, 20 s",
    ]


def test_stages_are_told_apart_and_each_ends_once(capsys, clock):
    lines = Lines(clock)
    for stage, done in (("answering", 2), ("mapping", 0), ("mapping", 2), ("mapping", 2)):
        lines(stage, done, 2)
        clock.now += 30
    # Each stage's seconds count from its own start.
    assert told(capsys) == ["answering: 2/2, 0 s", "mapping: 0/2, 0 s", "mapping: 2/2, 30 s"]


def test_no_name_of_a_price_touches_its_number(capsys):
    print_price({"prompts": 3, "embedding requests, at the first attempt": 1}, json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit("  ", 1)[1].strip() for line in lines] == ["3", "1"]
    assert len({len(line) for line in lines}) == 1


LONG = "c0ffee00-1111-2222-3333-444455556666: answering, uncapped and capped"


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_name_of_a_stage_is_cut_on_a_terminal(width):
    """`keel drift replay` said "answering, uncapped and ca" at any width."""
    shown = io.StringIO()
    bars = bars_on(Console(file=shown, width=width, force_terminal=True, color_system=None))
    draw = Bars(bars)
    draw(LONG, 3, 12000)
    bars.stop()
    rows = shown.getvalue().rsplit("\x1b[2K", 1)[-1].splitlines()
    names = "".join(row[: row.find("  ")] if "  " in row else row for row in rows)
    for word in LONG.split():
        assert word in names.replace(" ", "")
    assert "3/12000" in "".join(rows)
    assert "…" not in "".join(rows)
    assert max(map(len, rows)) <= width
