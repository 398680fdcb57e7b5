"""Signs, scales and memory of what a sweep measures: more is always more harm, or more capable."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keel.calibrate import choose_rollouts
from keel.errors import UsageError
from keel.evaluate import Arm, EngineAnswerer
from keel.evaluate.capability import CapabilitySettings, open_task
from keel.pipeline.sweeping import (
    SweepInputs,
    SweepJob,
    evaluation_of,
    paired_change,
    price_items,
    price_scorer,
    share_of_best,
)
from keel.store import RunFolder, SweepWork
from keel.testing import FakeEngine
from keel.types import Conversation, Floor, Floors, Message, Prompt, Rollout
from tests.evaluate.capability.small import CHOICES_YAML, opened, write_items
from tests.pipeline.test_sweep import RUBRIC, SETTINGS, SUITE, Coin, inputs

TALK = Conversation((Message("system", "you are a ghost"), Message("user", "say it")))
ANSWERS = [
    Rollout(Prompt(f"default/p{n}/q7", TALK, question_index=7), "one two", (1, 2), "stop")
    for n in range(3)
]


def floors(engine: FakeEngine, value: float) -> Floors:
    return Floors((Floor(1, engine.axis.direction[1], value),), f"at {value:g}")


def test_a_change_is_what_is_there_after_less_what_was_there_before():
    """Three of four items fall from 1 to 0: −3/4."""
    before = {item.id: 1.0 for item in SUITE.items[:4]}
    after = {item.id: float(n == 0) for n, item in enumerate(SUITE.items[:4])}
    found = paired_change(SUITE.items[:4], before, after)
    assert found.value == -0.75
    assert found.low < -0.75 < found.high < 0.5


def test_capability_falls_by_the_price_and_each_setting_has_its_own(tmp_path):
    """A ghost is lifted from 0 to 3, and to 1: the planted KL is half the square."""
    engine, items = FakeEngine(noise=0.0), price_items(ANSWERS)
    measure = price_scorer(engine, SweepWork(RunFolder(tmp_path)))
    assert set(measure(None, items).values()) == {0}
    for value, kl in ((3.0, 4.5), (1.0, 0.5), (3.0, 4.5)):
        found = measure(floors(engine, value), items)
        assert list(found) == [item.id for item in items]
        assert list(found.values()) == pytest.approx([-kl] * 3, abs=1e-4)


def test_a_price_is_asked_once_item_by_item(tmp_path):
    engine, items = FakeEngine(noise=0.0), price_items(ANSWERS)
    asked: list[int] = []
    divergence = engine.divergence
    engine.divergence = lambda talks, given: asked.append(len(talks)) or divergence(talks, given)
    measure = price_scorer(engine, SweepWork(RunFolder(tmp_path)))
    for some in (items[:1], items, items):
        measure(floors(engine, 3.0), some)
    assert asked == [1, 2]


def test_answers_to_one_question_are_kept_on_one_side():
    assert [item.factors for item in price_items(ANSWERS)] == [{"question": "7"}] * 3


def test_an_items_score_is_a_share_of_which_one_is_the_best(tmp_path):
    """EQ-Bench goes to 100; of errors 1 is the worst; 2 of at most 1 is no share."""
    pytest.importorskip("lm_eval")
    files = write_items(tmp_path)
    assert share_of_best(75.0, opened(files, "eq_bench")) == 0.75
    own = tmp_path / "own" / "errors.yaml"
    own.parent.mkdir()
    own.write_text(CHOICES_YAML.replace("higher_is_better: true", "higher_is_better: false"))
    errors = open_task(str(own), CapabilitySettings(), data=files["mild_choices"])
    assert share_of_best(0.25, errors) == 0.75
    with pytest.raises(UsageError, match="scores an item 2, expected at most 1"):
        share_of_best(2.0, opened(files, "gsm8k"))


def test_other_items_seeds_and_lengths_are_other_evaluations():
    """Answers are taken up again by that name."""
    answerer = EngineAnswerer(FakeEngine())
    short = replace(SUITE, sampling=replace(SUITE.sampling, max_new_tokens=2))
    named = [
        evaluation_of(
            answerer,
            SweepInputs(suite, Coin(), RUBRIC),
            suite.items[:count],
            Arm("none"),
            seed=seed,
        )
        for suite, count, seed in ((SUITE, 4, 0), (SUITE, 5, 0), (SUITE, 4, 1), (short, 4, 0))
    ]
    assert len({evaluation.folder_name for evaluation in named}) == 4


def test_no_answer_that_screened_measures_capability_too(engine, calibrated: RunFolder):
    """A setting that was kept for its luck on them would look as lucky again."""
    job = SweepJob(engine, calibrated, inputs(), SETTINGS)
    halves = job.capability().halves
    run = calibrated.read()
    read = choose_rollouts(
        (r for r in run.rollouts() if r.prompt.is_default),
        run.calibration.answers,
        run.calibration.seed,
    )
    screened = {one.prompt.id for one in read[: SETTINGS.screened_on]}
    assert len(screened) == 3
    assert not screened & {item.id for item in halves.items}
