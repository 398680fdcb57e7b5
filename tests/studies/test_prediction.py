"""Planted worlds: what words explain is recovered, and what they do not is not credited to them.

Seeds are fixed, so no test fails by chance; how rare a failure is over seeds, each one says.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from keel.studies import MessageTable, predict_levels, prompt_correlation
from keel.studies.ridge import deal_folds, ridge_out_of_fold
from keel.types import PredictionRow
from tests.studies.worlds import embedding, table_of, talk

BASE = "domain x turn + previous level"
ADDED = "what words add to these"


def rows(
    level, *, permutations: int = 39, seed: int = 0, **sizes
) -> dict[tuple[str, str], PredictionRow]:
    made = predict_levels(table_of(talk(level, seed=seed, **sizes)), permutations=permutations)
    return {(row.target, row.columns): row for row in made}


def heard(text: str) -> float:
    """What a line does to the level: linear in its embedding, of variance 1 over lines."""
    return float(embedding()([text])[0] @ np.full(32, 1.0))


def test_the_share_that_words_explain_is_recovered():
    """Variance 1 of the words and 1 of noise: R² .5."""
    chance = np.random.default_rng(5)

    def level(domain, person, line, turn, previous):
        return heard(f"{domain} line {line}") + chance.standard_normal()

    found = rows(level, people=10, topics=4, turns=8)["level", "words"]
    assert found.r2.value == pytest.approx(0.5, abs=0.05)
    assert found.r2.low < 0.5 < found.r2.high


def test_of_noise_half_of_change_is_regression_to_the_mean_and_words_explain_nothing():
    """The previous level explains (1 − 0) / 2 of `change` where turns are independent."""
    chance = np.random.default_rng(6)
    found = rows(lambda *given: chance.standard_normal(), people=10, topics=4, turns=8)
    assert found["change", "previous level"].r2.value == pytest.approx(0.5, abs=0.05)
    words, added = found["change", "words"], found["change", ADDED]
    assert words.r2.value <= words.null95
    assert added.r2.value <= added.null95
    assert found["change", "words, in sample (as published)"].r2.value > words.r2.value


def test_words_are_credited_with_nothing_where_the_turn_alone_decides():
    chance = np.random.default_rng(7)

    def level(domain, person, line, turn, previous):
        return -0.3 * turn + 0.3 * chance.standard_normal()

    added = rows(level)["level after the first turn", ADDED]
    assert added.r2.value <= max(0.02, added.null95)


def test_people_are_never_on_both_sides_of_a_fold():
    """Each person has a level and words of their own: who is known is recognised by them."""
    chance = np.random.default_rng(8)
    own = {}

    def level(domain, person, line, turn, previous):
        return own.setdefault(person, chance.standard_normal())

    points = talk(level)
    spoken = [replace(p, message=f"{p.person} says {p.message[-1]}") for p in points]

    def embed(texts):
        parts = [text.partition(" says ") for text in texts]
        return embedding()([who for who, _, _ in parts]) + 0.3 * embedding()([w for *_, w in parts])

    made = predict_levels(MessageTable.of(spoken, embed), permutations=9)
    found = {(row.target, row.columns): row.r2.value for row in made}
    assert found["level", "words, people known (random folds)"] > 0.3
    assert found["level", "words"] <= 0.05


def test_with_a_single_person_in_a_domain_nothing_is_predicted():
    assert rows(lambda *given: 1.0, people=1) == {}


def test_folds_keep_groups_whole_and_hold_every_stratum():
    groups = np.repeat(np.arange(20), 3)
    strata = groups // 5
    folds = deal_folds(groups, strata, 5)
    assert all(len(set(folds[groups == group])) == 1 for group in range(20))
    assert all(set(strata[folds == fold]) == {0, 1, 2, 3} for fold in range(5))


def test_ridge_out_of_fold_is_that_of_scikit_learn():
    from sklearn.linear_model import Ridge

    from keel.studies import ridge

    chance = np.random.default_rng(9)
    x, y = chance.standard_normal((60, 5)), chance.standard_normal((60, 1))
    folds, groups, strata = np.arange(60) % 3, np.arange(60), np.zeros(60, dtype=int)
    ours = ridge_out_of_fold(x, y, folds, groups, strata).predicted_NY[folds == 0, 0]
    inner = x[folds != 0], y[folds != 0, 0]
    theirs = [Ridge(alpha).fit(*inner).predict(x[folds == 0]) for alpha in ridge.ALPHAS]
    assert min(np.abs(ours - each).max() for each in theirs) < 1e-9


def told_by_the_prompt(points, share):
    """The prompt's last token says `share` of each answer's level, the rest is noise."""
    chance = np.random.default_rng(11)
    return [
        replace(p, prompt=p.with_history * share + (1 - share) * chance.standard_normal())
        for p in points
    ]


def test_a_prompt_that_says_where_the_answer_will_lie_has_its_rows_above_their_null():
    levels = np.random.default_rng(12)
    points = talk(lambda *_: float(levels.standard_normal()))
    made = {
        (row.target, row.columns): row
        for row in predict_levels(table_of(told_by_the_prompt(points, 0.9)), permutations=19)
    }
    row = made["level", "prompt's last token"]
    assert row.r2.low > 0.9 > row.null95
    added = made["level after the first turn", "what the prompt's last token adds to these"]
    assert added.r2.low > 0.8 > added.null95
    correlation = prompt_correlation(told_by_the_prompt(points, 0.9))
    assert correlation.low > 0.95
    noise = prompt_correlation(told_by_the_prompt(points, 0.0))
    assert noise.low < 0.15
    assert noise.high > -0.15


def test_without_the_prompts_last_token_there_is_no_row_for_it():
    points = talk(lambda _d, _p, line, *_: line / 24)
    assert not [
        r for r in predict_levels(table_of(points), permutations=9) if "prompt" in r.columns
    ]
    assert prompt_correlation(points) is None
