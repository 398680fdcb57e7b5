"""Real processes, really killed, at moments nobody chose."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from keel.errors import RunLockedError
from keel.store import RunFolder

WRITER = """
import sys, torch
from keel.store import RunFolder, RunPlan
from keel.types import *

BATCHES, ROWS = 150, 5
prompts = [
    Prompt(f"p{n}", Conversation((Message("user", f"question {n}"),)), question_index=n)
    for n in range(BATCHES * ROWS)
]
places = tuple(tuple(range(b * ROWS, (b + 1) * ROWS)) for b in range(BATCHES))
plan = RunPlan(ModelIdentity("tiny", 8, 64), {"scale": "smoke"}, 0, places)
folder = RunFolder(sys.argv[1])
with folder.lock():
    plan = folder.begin(plan, prompts)
    done = folder.committed()
    print("ready", flush=True)
    for number, batch in enumerate(plan.batches):
        if number in done:
            continue
        rollouts = [Rollout(prompts[p], f"answer {p} " * 50, (p, p + 1), "stop") for p in batch]
        ids = tuple(r.prompt.id for r in rollouts)
        means = torch.full((ROWS, 8, 64), float(number))
        folder.commit_batch(number, rollouts, ActivationBatch(ids, means, means[:, :, 0]))
        folder.save_judgements("local", [Judgement(i, "fully", 3.0) for i in ids])
        print(number, flush=True)
    folder.finish(counts={"rollouts": len(prompts)})
"""

HOLDER = """
import sys, time
from keel.store import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("ready", flush=True)
    time.sleep(60)
"""


def _start(script: str, path: Path) -> subprocess.Popen[str]:
    """The script in a process of its own, once it holds the lock."""
    command = [sys.executable, "-c", script, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _end(process: subprocess.Popen[str]) -> None:
    """Let it come to its end."""
    process.communicate()
    assert process.returncode == 0


def test_a_run_killed_again_and_again_ends_as_one_that_was_not(tmp_path: Path):
    """Every kill falls among the commits that follow the next 2 to 25; what counts as done is whole
    each time."""
    moments = random.Random(0)
    broken, whole = RunFolder(tmp_path / "broken"), RunFolder(tmp_path / "whole")
    _end(_start(WRITER, whole.path))
    done_before: set[int] = set()
    for _ in range(5):
        process = _start(WRITER, broken.path)
        assert process.stdout is not None
        for _ in range(moments.randint(2, 25)):
            process.stdout.readline()
        time.sleep(moments.uniform(0, 0.02))
        _kill(process)
        assert broken.committed() > done_before
        done_before = broken.committed()
        _check_whole(broken)
    _end(_start(WRITER, broken.path))
    assert _contents(broken.path) == _contents(whole.path)


def test_the_lock_is_refused_to_a_second_process_saying_who_has_it(tmp_path: Path):
    process = _start(HOLDER, tmp_path)
    expected = rf"another process \(pid {process.pid} on .*, since 20.*\) works on .*wait for it"
    try:
        with pytest.raises(RunLockedError, match=expected), RunFolder(tmp_path).lock():
            pytest.fail("two processes hold the lock")
    finally:
        _kill(process)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path):
    _kill(_start(HOLDER, tmp_path))
    with RunFolder(tmp_path).lock():
        pass


def test_the_lock_can_be_taken_again_inside_and_is_free_afterwards(tmp_path: Path):
    folder = RunFolder(tmp_path)
    with folder.lock():
        with folder.lock():
            pass
        with pytest.raises(RunLockedError), RunFolder(tmp_path).lock():
            pytest.fail("the inner block freed the lock")
    with RunFolder(tmp_path).lock():
        pass


def test_an_error_inside_frees_the_lock(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path).lock():
        raise ZeroDivisionError
    with RunFolder(tmp_path).lock():
        assert [path.name for path in tmp_path.glob(".lock*")] == [".lock", ".lock-owner.json"]


def _check_whole(folder: RunFolder) -> None:
    rollouts = list(folder.read().rollouts())
    assert len(rollouts) == 5 * len(folder.committed())
    batches = dict(zip(sorted(folder.committed()), folder.read().activation_batches(), strict=True))
    for number, batch in batches.items():
        assert batch.rollout_ids == tuple(f"p{n}" for n in range(5 * number, 5 * number + 5))
        assert torch.equal(batch.means_BLD, torch.full((5, 8, 64), float(number)))
    judged = folder.read().judgements()
    assert set(judged) <= {rollout.prompt.id for rollout in rollouts}


def _contents(root: Path) -> dict[str, bytes]:
    """Files of a run but for those that hold the time or depend on where a judge was stopped."""
    left_out = ("manifest.json", ".lock", "local.jsonl")
    files = (path for path in root.rglob("*") if path.is_file() and path.name not in left_out)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
