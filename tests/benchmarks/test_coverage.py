"""Intervals hold the truth and p-values reject true nulls as often as they say, by a small part of
`make coverage`. Seeds are fixed: what passes once passes always."""

from __future__ import annotations

import pytest

from benchmarks.coverage.__main__ import all_studies, table
from benchmarks.coverage.studies import Known, Row, Study
from keel.types import Interval
from tests.processes import unchecked


def rows_of(words: str, draws: int) -> list[Row]:
    return list(unchecked(rows_here, words, draws))


def rows_here(words: str, draws: int) -> list[Row]:
    return list(named(words).run(draws))


def named(words: str) -> Study:
    return next(study for study in all_studies() if study.design == words)


@pytest.mark.parametrize(
    "words", ["12 items", "10 personas of 5 items", "10 personas × 30 requests"]
)
def test_evaluations_state_what_holds(words):
    """100 draws a row: a true 95 % gives less than 87 in 1 of 600, 5 % rejects more than 13 in 1 of
    1,500. With 30 rows another seed fails in 5 %."""
    for row in rows_of(words, draws=100):
        low, high = (0, 0.13) if row.kind == "p-value" else (0.87, 1)
        assert not row.given or low <= row.share <= high, row


@pytest.mark.parametrize("words", ["12 answers to 14 questions", "24 answers to 14 questions"])
def test_prices_and_effects_of_few_answers_hold(words):
    """200 draws a row: a true 95 % gives less than 178 in 1 of 5,000; with ten rows another seed
    fails in 1 of 500."""
    for row in rows_of(words, draws=200):
        assert row.hits >= 178, row


def test_turns_of_replays_over_few_draws_hold():
    """200 draws: a true 95 % gives less than 178 in 1 of 5,000; with three rows another seed fails
    in 1 of 1,700."""
    for row in rows_of("5 draws", draws=200):
        assert row.hits >= 178, row


def test_ranks_of_a_role_hold_and_few_roles_have_no_p_of_their_own():
    """40 draws: ranks that hold in 95 % do so in fewer than 34 in 1 of 300."""
    *ranks, p = rows_of("12 roles × 12 questions", draws=40)
    assert all(row.hits >= 34 for row in ranks)
    assert p.given == 0


def test_too_few_personas_are_stated_as_such():
    """Four personas say next to nothing of a fifth: no row counts as a statement about others."""
    assert all(row.given == 0 for row in named("4 personas × 60 requests").run(draws=2))


def test_marks_of_new_default_answers_come_as_often_as_stated():
    """200 draws: at 5 % more than 22 are marked in 1 of 2,000; a range that holds in 90 % does so
    in fewer than 164 in 1 of 2,000."""
    rate, stated = rows_of("40 questions × 5 default prompts", draws=200)
    assert rate.hits <= 22
    assert stated.hits >= 164


def test_a_run_with_too_few_questions_marks_nothing():
    assert all(row.given == 0 for row in named("8 questions × 5 default prompts").run(draws=2))


def test_a_study_counts_intervals_that_hold_the_truth():
    """0.5 lies in one interval of two; without a truth, their mean 0.4 is held by both."""
    draws = iter([Interval(0.5, 0.3, 0.7), Interval(0.3, 0.1, 0.45)])
    pair = list(draws)

    def study(truths):
        left = iter(pair)
        return Study("maps", "two", lambda rng: {"share": next(left)}, 2, truths)

    assert [row.hits for row in study({"share": 0.5}).run()] == [1]
    assert [row.hits for row in study({}).run()] == [2]
    known = Study("maps", "two", lambda rng: {"share": Known(pair[0], 0.8)}, 2)
    assert [row.hits for row in known.run()] == [0]


def test_the_table_marks_what_is_off():
    """2 of 40 true nulls rejected is 5 %; 20 of 40 is not."""
    for hits, mark in ((2, ""), (20, "**")):
        p_values = iter([0.01] * hits + [0.5] * (40 - hits))
        rows = Study("judges", "forty", lambda rng, p=p_values: {"p": next(p)}, 40).run()
        assert f"| p | {mark}{hits / 0.4:.1f} ± " in table(list(rows))
