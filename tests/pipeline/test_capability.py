"""lm-eval's tasks through the pipeline: kept, resumed, compared arm by arm."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from keel import pipeline
from keel.errors import StaleArtifactError
from keel.evaluate import Arm, Evaluation
from keel.evaluate.capability import (
    CapabilitySettings,
    open_task,
    task_answerer,
    task_evaluation,
)
from keel.steering import Addition
from keel.store import EvaluationFolder, RunFolder
from keel.testing import FakeEngine
from keel.types import EvalResult
from tests.evaluate.capability.small import CAPPED, DIRECTION, PLAIN, UNREACHED, write_items
from tests.pipeline.capability import evaluate_sums
from tests.pipeline.small import open_small, outcome
from tests.processes import Forked

SETTINGS = CapabilitySettings(max_new_tokens=8, batch_size=3)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Items by task."""
    return write_items(tmp_path_factory.mktemp("items"))


@dataclass(frozen=True)
class Asked:
    """Seven sums in three batches, plain and capped."""

    data: Path
    task: str = "gsm8k"
    arms: tuple[Arm, ...] = (PLAIN, CAPPED)
    settings: CapabilitySettings = SETTINGS

    def of(self, engine: Any) -> Evaluation:
        """The same for an engine."""
        task = open_task(self.task, self.settings, data=self.data)
        return task_evaluation(task, task_answerer(task, engine), self.arms)


def asked(files, task="gsm8k", **more) -> Asked:
    return Asked(**{"data": files[task], "task": task, **more})


def evaluate(engine: Any, run: RunFolder, wanted: Asked, **more: Any) -> EvalResult:
    return pipeline.evaluate(run, wanted.of(engine), **more)


def price_of(engine: Any, run: RunFolder, wanted: Asked, **more: Any) -> dict[str, Any]:
    return pipeline.price_evaluation(run, wanted.of(engine), **more)


@pytest.fixture(scope="module")
def whole_evaluation(whole, model_folder, files, tmp_path_factory) -> Path:
    """A run with an evaluation that nothing interrupted. To be read only."""
    path = tmp_path_factory.mktemp("runs") / "evaluated"
    shutil.copytree(whole, path)
    evaluate(open_small(model_folder), RunFolder(path), asked(files))
    return path


def failing_at(count: int) -> Callable[[str, int, int], None]:
    """Progress that raises once so many answers of the capped arm are done."""

    def tell(stage: str, done: int, total: int) -> None:
        if stage == "answering: capped" and done >= count:
            raise ZeroDivisionError

    return tell


@pytest.mark.parametrize("count", [0, 3, 6, 7])
def test_interrupted_anywhere_it_ends_as_one_that_was_left_alone(
    engine, run, files, whole_evaluation, count
):
    with pytest.raises(ZeroDivisionError):
        evaluate(engine, run, asked(files), on_progress=failing_at(count))
    assert EvaluationFolder(run, "gsm8k").committed("capped") == set(range(-(-count // 3)))
    evaluate(engine, run, asked(files))
    assert outcome(run.path) == outcome(whole_evaluation)


def test_killed_it_ends_as_one_that_was_left_alone(
    run, files, model_folder, engine, whole_evaluation
):
    data = Path(files["gsm8k"])
    child = Forked.of(evaluate_sums, model_folder, run.path, data, folder=run.path.parent)
    place = EvaluationFolder(run, "gsm8k")
    child.wait_for(lambda: place.committed("none"))
    child.end(signal.SIGKILL)
    assert place.committed("none"), "it ended before a batch was kept"
    evaluate(engine, run, asked(files))
    assert outcome(run.path) == outcome(whole_evaluation)


def test_what_is_done_is_not_answered_again(engine, run, files, monkeypatch):
    evaluate(engine, run, asked(files))
    monkeypatch.setattr(engine.model, "generate", lambda **_: pytest.fail("it answered again"))
    evaluate(engine, run, asked(files))


def test_batches_stay_as_planned_where_less_memory_is_free_on_resuming(engine, run, files):
    by_memory = replace(SETTINGS, batch_size=None)
    question = asked(files, settings=by_memory)
    with pytest.raises(ZeroDivisionError):
        evaluate(engine, run, question, on_progress=failing_at(0))
    planned = EvaluationFolder(run, "gsm8k").plan.batches
    engine.budget = replace(engine.budget, rows=1)
    evaluate(engine, run, question)
    assert EvaluationFolder(run, "gsm8k").plan.batches == planned


def test_an_arm_added_later_gives_the_same_as_one_asked_for_at_once(
    engine, run, files, whole_evaluation
):
    evaluate(engine, run, asked(files, arms=(PLAIN,)))
    found = evaluate(engine, run, asked(files, arms=(CAPPED,)))
    assert [arm.arm for arm in found.arms] == ["none", "capped"]
    assert outcome(run.path) == outcome(whole_evaluation)


def test_an_arm_that_is_not_answered_in_full_is_left_out_and_that_is_told(engine, run, files):
    """A result was shown without it and without a word."""
    with pytest.raises(ZeroDivisionError):
        evaluate(engine, run, asked(files), on_progress=failing_at(3))
    found = evaluate(engine, run, asked(files, arms=(PLAIN,)))
    assert [arm.arm for arm in found.arms] == ["none"]
    assert any("'capped' is not answered in full yet, and left out" in w for w in found.warnings)


def test_what_speaks_against_an_arm_is_said_of_the_result(engine, run, files):
    doubtful = replace(CAPPED, warnings=("arm 'capped' never fires at layer 2",))
    evaluate(engine, run, asked(files, arms=(PLAIN, doubtful)))
    later = evaluate(engine, run, asked(files, arms=(PLAIN,)))
    assert "arm 'capped' never fires at layer 2" in later.warnings


def test_an_arm_that_does_something_else_is_refused_or_done_anew(engine, run, files):
    evaluate(engine, run, asked(files))
    before = EvaluationFolder(run, "gsm8k").answers("capped")
    changed = asked(files, arms=(PLAIN, replace(UNREACHED, name="capped")))
    with pytest.raises(StaleArtifactError, match="arm 'capped'"):
        evaluate(engine, run, changed)
    found = evaluate(engine, run, changed, overwrite=True)
    assert found.arm("capped").firing_rate == 0
    assert EvaluationFolder(run, "gsm8k").answers("capped") != before


def test_a_step_tells_no_firing_rate(engine, run, files):
    """It moves every token, which says nothing of how often it was needed."""
    step = Arm("steered:+1", (Addition(1, DIRECTION, 1.0),))
    found = evaluate(engine, run, asked(files, arms=(PLAIN, step)))
    assert found.arm("steered:+1").firing_rate is None


def test_other_settings_are_refused_naming_them_and_overwrite_does_it_anew(engine, run, files):
    evaluate(engine, run, asked(files))
    other = asked(files, settings=replace(SETTINGS, max_new_tokens=4))
    with pytest.raises(StaleArtifactError, match="max_new_tokens 8 → 4.*--overwrite"):
        evaluate(engine, run, other)
    found = evaluate(engine, run, other, overwrite=True)
    assert found.arm("none").mean_tokens == 4


def test_other_reference_answers_are_other_inputs(engine, run, files, tmp_path):
    """The same questions, so the same prompts; what counts as right is another thing."""
    evaluate(engine, run, asked(files))
    changed = tmp_path / "sums.jsonl"
    changed.write_text(files["gsm8k"].read_text().replace("#### 1", "#### 2"))
    with pytest.raises(StaleArtifactError, match="data "):
        evaluate(engine, run, asked(files, data=changed))


def test_the_result_is_kept_with_how_it_was_asked(run, whole_evaluation):
    found = RunFolder(whole_evaluation).read().evaluations()["gsm8k"]
    assert (found.suite, found.measure) == ("gsm8k", "exact_match (flexible-extract)")
    assert found.judge.startswith("lm-eval ")
    assert found.settings["chat template"] == "yes"
    assert found.settings["examples in the prompt"] == "0"
    assert found.settings["seed"] == "42"
    assert found.arm("capped").firing_rate is not None
    assert found.arm("none").firing_rate is None
    assert any("cut at 8 tokens" in said for said in found.warnings)


def test_an_arm_that_changes_nothing_is_told_so(engine, run, files):
    found = evaluate(engine, run, asked(files, arms=(PLAIN, UNREACHED)))
    arm = found.arm("unreached")
    assert arm.difference is not None
    assert (arm.difference.value, arm.p_value, arm.firing_rate) == (0, 1, 0)
    assert any("'unreached' changed not one answer" in said for said in found.warnings)


def test_multiple_choice_runs_plain_and_capped(engine, run, files):
    """Five items, scored by likelihood; the folder is called as the YAML file calls the task."""
    yaml = files["mild_choices"].parent / "choices.yaml"
    wanted = Asked(files["mild_choices"], str(yaml))
    found = evaluate(engine, run, wanted)
    assert (found.suite, found.measure) == ("mild_choices", "acc")
    assert [arm.n for arm in found.arms] == [5, 5]
    assert EvaluationFolder(run, "mild_choices").is_finished


def test_a_price_counts_what_is_left_and_keeps_nothing(engine, run, files):
    """Seven items, two arms, eight tokens each; then one arm of three batches is answered."""
    before = outcome(run.path)
    price = price_of(engine, run, asked(files))
    assert outcome(run.path) == before
    assert (price["answers"], price["new tokens, at most"]) == (14, 112)
    evaluate(engine, run, asked(files, arms=(PLAIN,)))
    assert price_of(engine, run, asked(files))["answers"] == 7


def test_a_price_of_other_items_than_it_was_begun_with_is_refused(engine, run, files):
    """The batches of seven items had been looked up among three: an IndexError."""
    evaluate(engine, run, asked(files, arms=(PLAIN,)))
    fewer = asked(files, settings=replace(SETTINGS, limit=3))
    with pytest.raises(StaleArtifactError, match=r"items \(7 → 3, fewer"):
        price_of(engine, run, fewer)
    assert price_of(engine, run, fewer, overwrite=True)["answers"] == 6


def test_a_larger_limit_keeps_the_answers_that_are_there(engine, run, files, tmp_path):
    """Three sums in a batch, then seven: the four new ones in batches of their own."""
    few, more = (asked(files, settings=replace(SETTINGS, limit=n)) for n in (3, None))
    evaluate(engine, run, few)
    kept = EvaluationFolder(run, "gsm8k")
    before = kept.answers("capped")
    result = evaluate(engine, run, more)
    assert kept.answers("capped")[:3] == before
    assert [len(batch) for batch in kept.plan.batches] == [3, 3, 1]
    assert [arm.n for arm in result.arms] == [7, 7]
    assert kept.plan.settings["limit"] == "all"
    changed = tmp_path / "sums.jsonl"
    changed.write_text(files["gsm8k"].read_text().replace("#### 1", "#### 2"))
    with pytest.raises(StaleArtifactError, match="data "):
        evaluate(engine, run, asked(files, data=changed, settings=replace(SETTINGS, limit=None)))


def test_items_added_with_other_references_are_refused(engine, run, files, tmp_path):
    """The prompts that are there are the same; what counts as right in them is not."""
    evaluate(engine, run, asked(files, settings=replace(SETTINGS, limit=3)))
    changed = tmp_path / "sums.jsonl"
    changed.write_text(files["gsm8k"].read_text().replace("#### 1", "#### 2"))
    with pytest.raises(StaleArtifactError, match="data "):
        evaluate(engine, run, asked(files, data=changed))


def test_an_engine_that_is_not_transformers_answers_as_chats(run, files):
    engine = FakeEngine(batches_continuously=True)
    result = evaluate(engine, run, asked(files, arms=(PLAIN,)))
    assert result.arm("none").n == 7
    assert result.settings["chat template"] == "yes"
