"""A suite under several arms: kept on the way, gone on with after a kill, to the same result."""

from __future__ import annotations

import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from keel import pipeline
from keel.errors import EndpointError, JudgeError, StaleArtifactError
from keel.evaluate import EngineAnswerer, Evaluation, parse_arms
from keel.store import EvaluationFolder, RunFolder
from keel.types import EvalResult, Suite, Verdict
from tests.pipeline.evaluation import (
    ITEMS,
    RUBRIC,
    Counting,
    evaluate_aloud,
    evaluate_small,
    small_evaluation,
    small_suite,
)
from tests.pipeline.small import files, open_small
from tests.processes import Forked


def kept(run: RunFolder) -> dict[str, bytes]:
    """What an evaluation left, but for the order in which a judge's lines came."""
    found = {n: data for n, data in files(run.path).items() if n.startswith("evaluations/")}
    return {
        n: b"".join(sorted(data.splitlines(keepends=True))) if "/verdicts/" in n else data
        for n, data in found.items()
    }


@pytest.fixture
def evaluated(calibrated, model_folder) -> RunFolder:
    """The evaluation that nothing interrupted."""
    evaluate_small(model_folder, calibrated.path)
    return calibrated


@pytest.fixture
def twin(whole_with_floors, tmp_path) -> RunFolder:
    """The same run without it."""
    shutil.copytree(whole_with_floors, tmp_path / "twin")
    return RunFolder(tmp_path / "twin")


def test_every_arm_is_answered_judged_and_compared(calibrated, model_folder):
    result = evaluate_small(model_folder, calibrated.path)
    assert [arm.arm for arm in result.arms] == ["none", "capped", "steered:-0.5"]
    assert all(arm.n == ITEMS for arm in result.arms)
    assert result.arm("capped").firing_rate is not None
    assert result.arm("steered:-0.5").firing_rate is None
    assert result.arm("none").projection_gaps is not None
    assert result.arm("none").perplexity is not None
    assert calibrated.read().evaluations() == {"odd": result}


def test_what_is_done_is_not_done_again(evaluated, model_folder, monkeypatch):
    judge = Counting()
    engine = open_small(model_folder)
    given = pipeline.arms_of(engine, evaluated.read(), parse_arms("none,capped,steered:-0.5"))
    monkeypatch.setattr(engine, "generate", lambda *_, **__: pytest.fail("it answered again"))
    asked = small_evaluation(engine, evaluated, given, grader=judge)
    before = kept(evaluated)
    pipeline.evaluate(evaluated, asked)
    assert judge.asked == []
    assert kept(evaluated) == before


def test_an_arm_added_later_joins_those_that_are_there(evaluated, twin, model_folder):
    """Answered later or together: the same answers, the same numbers."""
    later = evaluate_small(model_folder, evaluated.path, "none,replaced")
    assert [arm.arm for arm in later.arms] == ["none", "capped", "steered:-0.5", "replaced"]
    together = evaluate_small(model_folder, twin.path, "none,capped,steered:-0.5,replaced")
    assert later == together


def test_another_suite_under_the_same_name_is_refused_and_nothing_is_lost(evaluated, model_folder):
    before = kept(evaluated)
    with pytest.raises(StaleArtifactError, match=r"items \(10 → 9.*--name"):
        evaluate_small(model_folder, evaluated.path, suite=small_suite(9))
    assert kept(evaluated) == before
    result = evaluate_small(model_folder, evaluated.path, suite=small_suite(9), overwrite=True)
    assert result.arm("none").n == 9


def test_an_arm_that_changed_is_refused_or_done_anew(evaluated, model_folder):
    """The same name, other floors: only that arm is answered again."""
    engine = open_small(model_folder)
    arms = pipeline.arms_of(engine, evaluated.read(), parse_arms("none,capped"))
    floors = tuple(replace(one, value=one.value + 0.5) for one in arms[1].interventions)
    changed = (arms[0], replace(arms[1], interventions=floors, note="higher floors"))
    asked = small_evaluation(engine, evaluated, changed)
    with pytest.raises(StaleArtifactError, match="arm 'capped'.*higher floors"):
        pipeline.evaluate(evaluated, asked)
    place = EvaluationFolder(evaluated, "odd")
    before = {name: place.answers(name) for name in ("none", "steered:-0.5", "capped")}
    pipeline.evaluate(evaluated, asked, overwrite=True)
    after = {name: place.answers(name) for name in before}
    assert (after["none"], after["steered:-0.5"]) == (before["none"], before["steered:-0.5"])
    assert after["capped"] != before["capped"]


def test_two_turns_are_answered_one_after_the_other(calibrated, model_folder):
    result = evaluate_small(model_folder, calibrated.path, suite=small_suite(6, "And then?"))
    answers = EvaluationFolder(calibrated, "odd").answers("none")
    assert all(answer.first_projection is not None for answer in answers)
    assert result.correlation is not None


class ByThrees:
    """An engine that answers three items at a time, in their order."""

    def __init__(self, answerer: EngineAnswerer) -> None:
        self.answerer, self.asked = answerer, 0
        self.identity, self.can_be_timed = answerer.identity, True
        self.fingerprint, self.perplexities = answerer.fingerprint, answerer.perplexities

    def plan(self, conversations, sampling):
        numbers = range(len(conversations))
        return tuple(tuple(numbers[n : n + 3]) for n in range(0, len(numbers), 3))

    def answer(self, conversations, arm, sampling, **options):
        self.asked += len(conversations)
        return self.answerer.answer(conversations, arm, sampling, **options)


def evaluate_by_threes(model: Path, run: RunFolder, suite: Suite) -> tuple[EvalResult, int]:
    """The result, and how many answers it took."""
    engine = open_small(model)
    arms = pipeline.arms_of(engine, run.read(), parse_arms("none,capped"))
    answerer = ByThrees(EngineAnswerer(engine, run.read().axis))
    asked = Evaluation(suite, arms, answerer, Counting(), RUBRIC)
    return pipeline.evaluate(run, asked), answerer.asked


@pytest.mark.parametrize(("before", "after"), [(6, 9), (5, 9)])
@pytest.mark.parametrize("follow_up", ["", "And then?"])
def test_a_suite_that_has_grown_keeps_the_answers_that_are_there(
    calibrated, twin, model_folder, before, after, follow_up
):
    """Six items in two batches and three more in a third: as nine from the beginning. After five
    the batches are others, and only those that are there are the same."""
    turns = 2 if follow_up else 1
    evaluate_by_threes(model_folder, calibrated, small_suite(before, follow_up))
    answers = [name for name in kept(calibrated) if "/answers/" in name]
    there = {name: kept(calibrated)[name] for name in answers}
    result, asked = evaluate_by_threes(model_folder, calibrated, small_suite(after, follow_up))
    assert asked == 2 * turns * (after - before)
    assert {name: kept(calibrated)[name] for name in there} == there
    assert [arm.n for arm in result.arms] == [after, after]
    whole, _ = evaluate_by_threes(model_folder, twin, small_suite(after, follow_up))
    assert (result == whole) == (before % 3 == 0)
    if before % 3 == 0:
        assert kept(calibrated) == kept(twin)


def test_a_kill_while_items_are_added_loses_nothing(calibrated, twin, model_folder):
    """The settings are written and the items are not."""
    evaluate_by_threes(model_folder, calibrated, small_suite(6))
    items = calibrated.path / "evaluations" / "odd" / "items.jsonl"
    old = items.read_bytes()
    result, _ = evaluate_by_threes(model_folder, calibrated, small_suite(9))
    whole = items.read_bytes()
    items.write_bytes(old)
    again, asked = evaluate_by_threes(model_folder, calibrated, small_suite(9))
    assert (again, asked) == (result, 0)
    assert items.read_bytes() == whole


def test_a_price_of_more_items_counts_the_new_ones(evaluated, model_folder):
    engine = open_small(model_folder)
    arms = pipeline.arms_of(engine, evaluated.read(), parse_arms("none,replaced"))
    more = small_evaluation(engine, evaluated, arms, small_suite(ITEMS + 4))
    price = pipeline.price_evaluation(evaluated, more, measure=False)
    assert price["answers"] == 4 + ITEMS + 4


class Unreachable(Counting):
    """Answers three, then its line is cut."""

    def grade(self, cases, rubric):
        for number, verdict in enumerate(super().grade(cases, rubric)):
            if number == 3:
                raise EndpointError("the judge is down")
            yield verdict


def test_a_judge_that_goes_down_keeps_what_it_said(calibrated, model_folder, twin):
    with pytest.raises(EndpointError, match="the judge is down"):
        evaluate_small(model_folder, calibrated.path, grader=Unreachable())
    judge = Counting()
    evaluate_small(model_folder, calibrated.path, grader=judge)
    evaluate_small(model_folder, twin.path)
    assert len(judge.asked) < len(EvaluationFolder(twin, "odd").verdicts("counting-" + RUBRIC.id))
    assert kept(calibrated) == kept(twin)


class Mute(Counting):
    """Says nothing that can be read."""

    def grade(self, cases, rubric):
        for case in cases:
            yield Verdict(case.id, status="unparsed", reason="mumble")


def test_a_judge_of_no_use_stops_the_evaluation_also_when_it_is_asked_again(
    calibrated, model_folder
):
    for _ in range(2):
        with pytest.raises(JudgeError, match="verdicts are of no use"):
            evaluate_small(model_folder, calibrated.path, grader=Mute())
    assert calibrated.read().evaluations() == {}


def test_killed_again_and_again_it_ends_as_one_that_was_not(evaluated, twin, model_folder):
    """Five kills, each some steps and some milliseconds further on than the one before."""
    moments = random.Random(0)
    for _ in range(5):
        working = Forked.of(evaluate_aloud, model_folder, twin.path, folder=twin.path.parent)
        working.wait_for_lines(moments.randint(1, 25))
        time.sleep(moments.uniform(0, 0.05))
        working.end(signal.SIGKILL)
        assert twin.read().evaluations().keys() <= {"odd"}
    last = Forked.of(evaluate_aloud, model_folder, twin.path, folder=twin.path.parent)
    code, _, said = last.end()
    assert code == 0, said
    assert kept(twin) == kept(evaluated)


def test_the_price_counts_what_is_left_to_answer(evaluated, model_folder):
    engine = open_small(model_folder)
    arms = pipeline.arms_of(engine, evaluated.read(), parse_arms("none,replaced"))
    price = pipeline.price_evaluation(evaluated, small_evaluation(engine, evaluated, arms))
    assert price["answers"] == ITEMS
    assert price["new tokens, at most"] == ITEMS * 6
    assert price["minutes of answering, at most"] >= 0


def test_a_price_of_other_items_than_it_was_begun_with_is_refused(evaluated, model_folder):
    """It had counted the batches of the old items as answers to the new ones."""
    engine = open_small(model_folder)
    arms = pipeline.arms_of(engine, evaluated.read(), parse_arms("none,replaced"))
    other = small_evaluation(engine, evaluated, arms, small_suite(ITEMS, "And then?"))
    with pytest.raises(StaleArtifactError, match="items"):
        pipeline.price_evaluation(evaluated, other, measure=False)
    price = pipeline.price_evaluation(evaluated, other, measure=False, overwrite=True)
    assert price["answers"] == 2 * 2 * ITEMS
