"""From answers to lm-eval's scores, and from scores to rates that are compared item by item."""

from __future__ import annotations

import dataclasses

import pytest

from keel.evaluate import ArmAnswers
from keel.evaluate.capability import CapabilitySettings, open_task
from keel.evaluate.capability.scoring import item_values
from keel.types import Answered
from tests.evaluate.capability.small import CHOICES_YAML, SUMS, opened, scored, task_result


def given(task, texts, arm="none"):
    """These texts as an arm's answers."""
    pairs = zip(task.items(), texts, strict=True)
    return ArmAnswers(arm, tuple(Answered(i.id, arm, t, len(t), "stop") for i, t in pairs))


def values_of(task, told):
    """What each item counts for."""
    scores = task.score({answer.item_id: answer.text for answer in told.answers})
    return item_values(task, [values[task.key] for values in scores.values()])


def test_the_last_number_of_an_answer_counts(files):
    """Right are 1, 3, 5, 7, 9, 11, 13; the first three are given, the others are not: 3/7."""
    task = opened(files, "gsm8k")
    told = given(task, ["It is 1.", "1 and 2 are 3", "$5", "0", "0", "0", "none"])
    assert task_result(task, [told]).arm("none").rate.value == 3 / 7


def test_arms_are_held_against_each_other_item_by_item(files):
    """Seven of seven against none: all pairs differ one way, and McNemar's mid-p is 1 / 2^7."""
    task = opened(files, "gsm8k")
    right = [row["answer"].split()[-1] for row in SUMS]
    arms = [given(task, ["none"] * 7), given(task, right, "capped")]
    found = task_result(task, arms).arm("capped")
    assert found.rate.value == 1
    assert found.difference is not None
    assert found.difference.value == 1
    assert found.p_value == pytest.approx(1 / 2**7)


def test_instructions_are_counted_not_items(files):
    """Followed are 1 of 1, 1 of 2 and 0 of 1 instructions: 2 of 4, not (1 + 1/2 + 0) / 3 = 1/2.

    The second answer has one sentence and no comma; so that the two rules part, the first fails.
    """
    task = opened(files, "ifeval")
    told = given(task, ["a, b", "The sea is wide", "a harbour"])
    found = task_result(task, [told]).arm("none")
    # 0 of 1, 1 of 2, 1 of 1: 2 of 4 instructions; of items it would be also a half.
    assert found.rate.value == 0.5
    told = given(task, ["a bird", "The sea is wide", "a boat"])
    found = task_result(task, [told]).arm("none")
    assert found.rate.value == 0.5  # 1 of 1, 1 of 2, 0 of 1
    told = given(task, ["a bird", "The sea is wide", "a harbour"])
    found = task_result(task, [told]).arm("none")
    assert found.rate.value == 0.75  # 3 of 4 instructions; 5/6 were items counted alike


def test_no_interval_of_a_share_leaves_0_to_1(files):
    """IFEval's pseudo-values do: 8 items of `smollm2` had once had 14 % (−4 to 44). Here the one
    item of two instructions follows neither: its own value is 1/2 + 2·(5/9 − 1) = −7/18."""
    task = opened(files, "ifeval")
    told = given(task, ["a bird", "The sea, wide", "a harbour"])
    assert values_of(task, told)[1] == pytest.approx(-7 / 18)
    rate = task_result(task, [told]).arm("none").rate
    assert (rate.low, rate.value) == (0, 0.5)


def test_an_item_counts_for_how_far_it_moves_the_number(files):
    """Of 3 in 4 with counts 1, 2, 1: without the first 2/3, the second 2/2, the third 2/3. The
    pseudo-values 3/4 + 2·(7/9 − 2/3, 7/9 − 1, 7/9 − 2/3) are 35/36, 11/36, 35/36; mean 3/4."""
    task = opened(files, "ifeval")
    told = given(task, ["a bird", "The sea is wide", "a harbour"])
    values = values_of(task, told)
    assert values.tolist() == pytest.approx([35 / 36, 11 / 36, 35 / 36])


def test_items_values_have_the_tasks_number_as_their_mean_whatever_it_is_made_of(
    files, monkeypatch
):
    """A task that reports its best item: three of seven are right, and its number is 1."""
    task = opened(files, "gsm8k")
    monkeypatch.setattr(task, "aggregate", max)
    told = given(task, ["1", "3", "5", "0", "0", "0", "0"])
    assert values_of(task, told).mean() == 1


def test_equal_answers_differ_by_nothing_where_the_number_is_no_mean(files):
    task = opened(files, "ifeval")
    words = ["a bird", "The sea is wide", "a harbour"]
    found = task_result(task, [given(task, words), given(task, words, "capped")])
    capped = found.arm("capped")
    assert capped.difference is not None
    assert (capped.difference.value, capped.p_value) == (0, 1)
    assert any("'capped' changed not one answer" in said for said in found.warnings)


def test_the_same_words_count_under_each_arm_for_what_they_move_there(files):
    """3 of 4 instructions followed against 1 of 4: half as many of all. The first answer is the
    same, but moves the one number otherwise than the other."""
    task = opened(files, "ifeval")
    told = [
        given(task, ["a bird", "The sea is wide", "a harbour"]),
        given(task, ["a bird", "one, two", "a boat"], "capped"),
    ]
    found = task_result(task, told).arm("capped")
    assert (found.rate.value, found.difference.value) == pytest.approx((1 / 4, -1 / 2))


def test_scores_on_another_scale_stay_on_it(files):
    """Sad 8, Glad 0, Tired 4, Proud 0 are the reference's own numbers: 100 points of 100."""
    task = opened(files, "eq_bench")
    told = given(task, ["Sad: 8\nGlad: 0\nTired: 4\nProud: 0", "nothing", "nothing"])
    assert task_result(task, [told]).arm("none").rate.value == pytest.approx(100 / 3)


def test_the_reader_of_real_eq_bench_files_gives_what_lm_eval_parses(files):
    items = opened(files, "eq_bench").items()
    assert [item.id for item in items] == ["eq_bench/0", "eq_bench/1", "eq_bench/2"]


def test_log_likelihoods_are_scored_from_what_was_kept(files):
    """The first option is likeliest in all five items: right in the first and the last."""
    task = opened(files, "mild_choices")
    kept = [f"[{', '.join(['[[-1.0, false]]', *['[[-2.0, false]]'] * (n - 1)])}]"
            for n in (3, 2, 3, 2, 2)]  # fmt: skip
    found = task_result(task, [given(task, kept)]).arm("none")
    assert found.rate.value == 2 / 5


def test_no_length_is_told_where_nothing_was_generated(files):
    task = opened(files, "mild_choices")
    kept = [f"[{', '.join(['[[-1.0, false]]'] * n)}]" for n in (3, 2, 3, 2, 2)]
    told = given(task, kept)
    told = dataclasses.replace(
        told, answers=tuple(dataclasses.replace(a, tokens=0) for a in told.answers)
    )
    assert task_result(task, [told]).arm("none").mean_tokens is None


def test_verdicts_name_every_metric(files):
    task = opened(files, "gsm8k", limit=1)
    (verdict,) = scored(task, given(task, ["It is 1."]).answers)
    assert verdict.score == 1
    assert verdict.reason == "exact_match,strict-match 0; exact_match,flexible-extract 1"


def test_seconds_of_chance_are_left_out_of_scores(files):
    """langdetect guesses; seeded, the same answer has the same score each time."""
    task = opened(files, "ifeval")
    said = {item.id: text for item, text in zip(task.items(), ["ha", "hm", "ho"], strict=True)}
    assert task.score(said) == task.score(said)


def test_one_item_by_itself_counts_for_the_whole_number(files):
    """Without it there would be nothing to take a number of."""
    task = opened(files, "ifeval", limit=1)
    values = values_of(task, given(task, ["a bird"]))
    assert values.tolist() == [1]


def test_answers_may_come_in_any_order(files):
    """As they lie in the folder: batch by batch, the longest first."""
    task = opened(files, "gsm8k")
    right = given(task, [row["answer"].split()[-1] for row in SUMS], "capped")
    turned = dataclasses.replace(right, answers=right.answers[::-1])
    found = task_result(task, [given(task, ["0"] * 7), turned]).arm("capped")
    assert (found.n, found.rate.value) == (7, 1)


def test_what_is_to_be_known_of_task_and_arms_is_said_of_the_result(files):
    task = opened(files, "gsm8k", max_new_tokens=12)
    told = given(task, ["0"] * 7)
    found = task_result(task, [told], warnings=("arm 'random' is odd",))
    assert found.warnings[0] == "arm 'random' is odd"
    assert found.warnings[1].startswith("answers were cut at 12 tokens")


def test_of_a_task_where_less_is_better_that_is_said(files, tmp_path):
    yaml = tmp_path / "errors.yaml"
    yaml.write_text(CHOICES_YAML.replace("higher_is_better: true", "higher_is_better: false"))
    task = open_task(str(yaml), CapabilitySettings(), data=files["mild_choices"])
    kept = [f"[{', '.join(['[[-1.0, false]]'] * n)}]" for n in (3, 2, 3, 2, 2)]
    assert task_result(task, [given(task, kept)]).is_higher_better is False
    task = opened(files, "mild_choices")
    assert task_result(task, [given(task, kept)]).is_higher_better is True
