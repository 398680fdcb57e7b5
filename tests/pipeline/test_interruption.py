"""Interrupted by an error, a NaN, a kill or Ctrl-C, a run ends as one that was left alone."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keel import pipeline
from keel.errors import NotFiniteError, RunLockedError
from keel.settings import DriftSettings
from keel.store import RunFolder
from keel.testing import save_tiny_model, tiny_model
from keel.types import Conversation, Message, Sampling
from tests.endpoint.server import Answer, Asked, say, serving
from tests.pipeline.small import (
    INPUTS,
    LIBRARY,
    ROLLOUTS,
    ROWS,
    SETTINGS,
    files,
    open_small,
    outcome,
    stopping_at,
)
from tests.processes import Forked, keel_command


@pytest.mark.parametrize("count", [0, 1, 5, 12, ROLLOUTS])
def test_a_run_that_failed_midway_ends_as_one_that_did_not(engine, whole, tmp_path, count):
    """Batches are of four; the one in flight is lost whole: after 5 answers one batch stands."""
    folder = RunFolder(tmp_path / "run")
    stop = stopping_at(count, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        pipeline.extract(engine, folder, SETTINGS, inputs=INPUTS, on_progress=stop)
    assert len(folder.committed()) == max(0, count - 1) // ROWS
    assert not folder.is_finished
    pipeline.extract(engine, folder, SETTINGS, inputs=INPUTS)
    assert outcome(folder.path) == outcome(whole)


def test_a_run_that_failed_while_mapping_ends_as_one_that_did_not(engine, whole, tmp_path):
    folder = RunFolder(tmp_path / "run")

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "mapping persona space":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pipeline.extract(engine, folder, SETTINGS, inputs=INPUTS, on_progress=stop)
    engine.generate = lambda *_, **__: pytest.fail("it answered again")
    pipeline.extract(engine, folder, SETTINGS, inputs=INPUTS)
    assert outcome(folder.path) == outcome(whole)


def test_batches_stay_as_planned_where_less_memory_is_free_on_resuming(engine, whole, tmp_path):
    """A batch's shape moves its numbers a little, so the first plan holds."""
    folder = RunFolder(tmp_path / "run")
    stop = stopping_at(9, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        pipeline.extract(engine, folder, SETTINGS, inputs=INPUTS, on_progress=stop)
    engine.budget = replace(engine.budget, rows=1)
    pipeline.extract(engine, folder, SETTINGS, inputs=INPUTS)
    assert outcome(folder.path) == outcome(whole)


def test_a_model_that_turns_to_nan_midway_stops_and_mended_goes_on(engine, whole, tmp_path):
    """Two batches stand when it breaks; nothing of the third does; mended, all is as ever."""
    folder = RunFolder(tmp_path / "run")
    weight = engine.decoder.blocks[1].mlp.down_proj.weight.data
    sound = weight.clone()

    def break_it(stage: str, done: int, total: int) -> None:
        if done == 2 * ROWS + 1:
            weight[0, 0] = float("nan")

    with pytest.raises(NotFiniteError, match="NaN"):
        pipeline.extract(engine, folder, SETTINGS, inputs=INPUTS, on_progress=break_it)
    assert folder.committed() <= {0, 1, 2}
    assert all(data == outcome(whole)[name] for name, data in outcome(folder.path).items())
    weight.copy_(sound)
    pipeline.extract(engine, folder, SETTINGS, inputs=INPUTS)
    assert outcome(folder.path) == outcome(whole)


@pytest.mark.parametrize("temperature", [1.0, 0.0], ids=["sampled", "greedy"])
def test_a_model_saved_with_nan_is_named_as_such_and_leaves_no_answers(tmp_path, temperature):
    """Sampling refuses the scores; a greedy choice does not look, so the store refuses means."""
    path = save_tiny_model(tmp_path / "broken", "llama")
    model = tiny_model("llama")
    model.model.layers[2].mlp.down_proj.weight.data[0, 0] = float("nan")
    model.save_pretrained(path)
    folder = RunFolder(tmp_path / "run")
    settings = replace(SETTINGS, sampling=replace(SETTINGS.sampling, temperature=temperature))
    with pytest.raises(NotFiniteError, match="NaN or Inf.*(float32|its weights)"):
        pipeline.extract(open_small(path), folder, settings, inputs=INPUTS)
    assert set(files(folder.path)) == {"plan.json"}


def test_a_folder_that_another_process_works_on_is_refused(engine, run: RunFolder):
    """Another object of this process stands for it; the next tests have real ones."""
    before = files(run.path)
    with RunFolder(run.path).lock(), pytest.raises(RunLockedError, match="wait for it"):
        pipeline.extract(engine, run, SETTINGS, inputs=INPUTS)
    assert files(run.path) == before


def extracting(model: Path, run: Path) -> Forked:
    """`keel extract` started; 20 roles and 16 questions make 7 batches and some seconds of work."""
    sizes = ["--role-count", "20", "--question-count", "16", "--max-new-tokens", "8"]
    return keel(run, "extract", str(model), "-o", run.name, *sizes, "--device", "cpu")


def keel(run: Path, *words: str) -> Forked:
    """A command started beside a run."""
    return Forked.of(keel_command, *words, folder=run.parent)


@pytest.fixture(scope="module")
def reference(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run in a process of its own that nothing interrupted."""
    run = tmp_path_factory.mktemp("reference") / "run"
    code, _, said = extracting(model_folder, run).end()
    assert code == 0, said
    return outcome(run)


@pytest.fixture
def working(model_folder: Path, tmp_path: Path) -> Iterator[Forked]:
    """`keel extract` that holds the lock and has written down its plan; killed afterwards if it
    still works."""
    run = tmp_path / "run"
    working = extracting(model_folder, run)
    try:
        signs = (run / ".lock-owner.json", run / "plan.json")
        working.wait_for(lambda: all(sign.exists() for sign in signs))
        assert working.is_running, working.end()
        yield working
    finally:
        working.end(signal.SIGKILL)


def test_a_run_killed_again_and_again_ends_as_one_that_was_not(model_folder, reference, tmp_path):
    """`kill -9` twice at random moments among the batches, once as the map is written.

    What stands after each is whole; nothing is lost, nothing is there twice.
    """
    folder = RunFolder(tmp_path / "run")
    moments = random.Random(0)
    first, second = sorted(moments.sample(range(1, 6), 2))
    seen = []
    for is_time in (
        lambda: len(folder.committed()) >= first,
        lambda: len(folder.committed()) >= second,
        (folder.path / "vectors.safetensors").exists,
    ):
        working = extracting(model_folder, folder.path)
        working.wait_for(is_time)
        if len(seen) < 2:
            time.sleep(moments.uniform(0, 0.3))
        working.end(signal.SIGKILL)
        seen.append(len(folder.committed()))
        # A file that was being written stands under a temporary name, and counts for nothing.
        standing = {n: d for n, d in outcome(folder.path).items() if n.startswith("rollouts/batch")}
        assert standing.items() <= reference.items()
    assert 0 < seen[0] < seen[2] == 7, seen
    code, _, said = extracting(model_folder, folder.path).end()
    assert code == 0, said
    assert outcome(folder.path) == reference
    ids = [rollout.prompt.id for rollout in folder.read().rollouts()]
    assert len(ids) == len(set(ids)) == 20 * 16 + 5 * 16


REPLAYED = Conversation(
    tuple(Message("user", f"And what of the sea, {n}?") for n in range(5)), "talk"
)
SHORT = DriftSettings(draws=2, sampling=Sampling(max_new_tokens=6))


@pytest.mark.parametrize("count", range(1, 6))
def test_a_replay_that_failed_midway_ends_as_one_that_did_not(
    engine, calibrated, model_folder, tmp_path, count
):
    shutil.copytree(calibrated.path, tmp_path / "twin")
    twin = RunFolder(tmp_path / "twin")
    made = pipeline.replay_conversation(engine, calibrated, REPLAYED, SHORT)

    def stop(stage: str, done: int, total: int) -> None:
        if done == count:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pipeline.replay_conversation(engine, twin, REPLAYED, SHORT, on_progress=stop)
    assert not twin.read().replays()
    seen: list[tuple[int, int]] = []
    again = pipeline.replay_conversation(
        open_small(model_folder),
        twin,
        REPLAYED,
        SHORT,
        on_progress=lambda stage, done, total: seen.append((done, total)),
    )
    assert seen == [(done, 5) for done in range(count, 6)]
    assert again == made
    assert outcome(twin.path) == outcome(calibrated.path)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"draws": 3},
        {"sampling": Sampling(max_new_tokens=7)},
        {"layer": 0},
        {"setting": "p50"},
    ],
)
def test_answers_of_a_replay_with_other_settings_are_not_gone_on_with(engine, calibrated, other):
    names = calibrated.read().settings
    if "setting" in other:
        other = {"setting": next(n for n in names if n != calibrated.read().floors.name)}
    pipeline.replay_conversation(engine, calibrated, REPLAYED, SHORT)
    seen: list[int] = []
    pipeline.replay_conversation(
        engine,
        calibrated,
        REPLAYED,
        replace(SHORT, **other),
        on_progress=lambda stage, done, total: seen.append(done),
    )
    assert seen == list(range(6))


def test_a_replay_killed_again_and_again_ends_as_one_that_was_not(calibrated, tmp_path):
    """`kill -9` at random moments, as a turn was kept or is being answered."""
    for name in ("whole", "killed"):
        shutil.copytree(calibrated.path, tmp_path / name)
    for name in ("one", "two"):
        talk = [{"role": "user", "content": f"And the sea of {name}, {n}?"} for n in range(4)]
        (tmp_path / f"{name}.json").write_text(json.dumps({"messages": talk}))

    def started(name: str) -> Forked:
        sizes = ["--draws", "2", "--max-new-tokens", "40", "--device", "cpu"]
        talks = ["one.json", "two.json"]
        return keel(tmp_path / name, "drift", "replay", name, *talks, *sizes)

    code, _, said = started("whole").end()
    assert code == 0, said
    run, moments = tmp_path / "killed", random.Random(0)

    def kept() -> int:
        paths = (run / "replaying").glob("*.jsonl")
        return sum(path.read_bytes().count(b"\n") for path in paths)

    for turns in sorted(moments.sample(range(1, 8), 2)):
        working = started("killed")
        working.wait_for(lambda turns=turns: kept() >= turns)
        time.sleep(moments.uniform(0, 0.05))
        working.end(signal.SIGKILL)
    code, _, said = started("killed").end()
    assert code == 0, said
    assert kept() == 8  # none twice
    # A page says when it was made.
    pages = [
        {n for n in outcome(tmp_path / r) if n.startswith("cases/")} for r in ("whole", "killed")
    ]
    assert pages[0] == pages[1] == {"cases/one.html", "cases/two.html"}
    whole, killed = (
        {n: data for n, data in outcome(tmp_path / r).items() if not n.startswith("cases/")}
        for r in ("whole", "killed")
    )
    assert killed == whole


LATE_S = 0.02


def test_judging_that_is_killed_goes_on_and_judges_nothing_twice(run: RunFolder):
    """`kill -9` once some answers are judged, four a second: the next call judges the others, none
    again."""

    def scores(_number: int, asked: Asked) -> Answer:
        return say(
            json.dumps({"score": len(asked.body["messages"][-1]["content"]) % 4}), after_s=LATE_S
        )

    def kept() -> list[str]:
        journals = (run.path / "judgements").glob("*.jsonl")
        lines = [line for path in journals for line in path.read_text().split("\n")[:-1]]
        return [json.loads(line)["rollout_id"] for line in lines]

    (run.path.parent / "described").mkdir()
    for role in LIBRARY.roles:
        told = {
            "name": role.name,
            "description": f"A {role.name}.",
            "system_prompts": role.system_prompts,
        }
        (run.path.parent / "described" / f"{role.name}.json").write_text(json.dumps(told))
    with serving(scores) as served:
        how = ["--judge", "openai:judge", "--judge-url", served.address]
        how += ["--requests-per-minute", "240", "--roles", "described"]
        first = keel(run.path, "judge", "rollouts", run.path.name, *how)
        first.wait_for(lambda: len(kept()) > 10)
        assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
        before = kept()
        assert 10 < len(before) < ROLLOUTS
        code, _, said = keel(run.path, "judge", "rollouts", run.path.name, *how).end()
    assert code == 0, said
    assert kept()[: len(before)] == before
    assert sorted(kept()) == sorted(r.prompt.id for r in run.read().rollouts())


STUDY = ["--domains", "coding,therapy", "--people", "1", "--topics", "2", "--turns", "3",
         "--max-new-tokens", "6", "--at-once", "4", "--arms", "none,capped", "--harm"]  # fmt: skip


def outside(_number: int, asked: Asked) -> Answer:
    """An auditor, a judge and an embedder, each a little late."""
    if "input" in asked.body:
        rows = [[len(text) % 7, len(text) % 5, 1.0] for text in asked.body["input"]]
        data = [{"object": "embedding", "index": n, "embedding": r} for n, r in enumerate(rows)]
        record = {"object": "list", "model": "e", "data": data}
        return Answer(json.dumps(record).encode(), after_s=LATE_S)
    if asked.body["model"] == "judge":
        return say('{"label": "refusal"}', after_s=LATE_S)
    seed = asked.body["seed"]
    return say(f"What about part {seed % 1000} of room {seed}?", after_s=LATE_S)


def test_a_study_killed_five_times_ends_as_one_that_was_not_and_pays_nothing_twice(
    calibrated, tmp_path
):
    """`kill -9` at five random moments, with users, judge and embedder behind an address. What was
    under way as the process died, less than a second old, is lost; all that came back before that
    is kept."""
    for name in ("whole/run", "killed/run"):
        shutil.copytree(calibrated.path, tmp_path / name)
    moments, killed_at = random.Random(0), list[float]()
    with serving(outside) as served:
        behind = [o for of in ("auditor", "judge", "embed")
                  for o in (f"--{of}", f"openai:{of}", f"--{of}-url", served.address)]  # fmt: skip

        def started(name: str) -> Forked:
            command = ["drift", "study", "run", *STUDY, *behind, "--device", "cpu"]
            return keel(tmp_path / name / "run", *command)

        code, _, said = started("whole").end()
        assert code == 0, said
        all_paid = len(served.asked)
        for share in sorted(moments.uniform(0.05, 0.95) for _ in range(5)):
            working = started("killed")
            working.wait_for(lambda s=share: len(served.asked) - all_paid >= s * all_paid)
            time.sleep(moments.uniform(0, 0.1))
            killed_at.append(time.monotonic())
            assert working.end(signal.SIGKILL)[0] == -signal.SIGKILL
        code, _, said = started("killed").end()
        assert code == 0, said
    studies = [
        {n: d for n, d in outcome(tmp_path / name / "run").items() if n.startswith("studies/")}
        for name in ("whole", "killed")
    ]
    assert studies[0] == studies[1]
    requests: dict[str, list[float]] = {}
    for asked in served.asked[all_paid:]:
        requests.setdefault(json.dumps(asked.body), []).append(asked.at)
    assert len(requests) == all_paid
    for at in requests.values():
        lost = [t for t in at[:-1] if any(0 < killed - t < 1 for killed in killed_at)]
        assert lost == at[:-1]


def test_a_second_process_is_refused_while_the_first_is_at_work(
    working: Forked, model_folder, tmp_path
):
    engine = open_small(model_folder)
    refusal = rf"another process \(pid {working.pid} on .*\) works on .*; wait for it"
    with pytest.raises(RunLockedError, match=refusal):
        pipeline.extract(engine, RunFolder(tmp_path / "run"), SETTINGS, inputs=INPUTS)
    assert working.is_running, "the first was disturbed"


def test_ctrl_c_ends_it_with_130_and_says_how_to_go_on(working: Forked):
    code, _, said = working.end(signal.SIGINT)
    assert code == 130
    assert said.splitlines()[-1] == "keel: interrupted; run the same command again to go on"
    assert "Traceback" not in said
