"""Intervals cover, p-values are what they say, and degenerate cases say how little they know."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, kstest

from keel.errors import TooFewSamplesError
from keel.statistics import (
    Resampling,
    binding_factors,
    bootstrap_indices,
    clustered_correlation,
    difference_interval,
    draw_counts,
    holm,
    newcombe,
    paired_p_value,
    percentile_interval,
    rate_interval,
    wilson,
)


def grid(personas: int, requests: int) -> list[dict[str, str]]:
    return [
        {"persona": f"p{p}", "request": f"r{r}"} for p in range(personas) for r in range(requests)
    ]


def draws_of(factors, draws=400):
    return Resampling.of(factors, draws=draws)


def test_a_level_that_no_two_items_share_binds_nothing():
    """12 personas and 12 requests, each pair once: items are as good as independent."""
    assert binding_factors([{"persona": f"p{n}", "request": f"r{n}"} for n in range(12)]) == {}


def test_a_factor_with_few_levels_is_taken_as_it_is():
    """Five questions drawn anew tell nothing of a sixth."""
    assert set(
        binding_factors([{"role": f"r{n // 5}", "question": f"q{n % 5}"} for n in range(60)])
    ) == {"role"}


def test_items_that_lack_a_factor_share_its_level_with_nobody():
    """8 personas of two items each, and 4 items without one: 8 + 4 levels."""
    factors = [{"persona": f"p{n // 2}"} for n in range(16)] + [{}] * 4
    assert len(set(binding_factors(factors)["persona"].tolist())) == 12


def test_where_all_answers_are_equal_the_interval_is_wilsons():
    """0 of 20: Wilson's upper end is z²/(n + z²) = 3.8415/23.8415 = 0.1611."""
    found = rate_interval(np.zeros(20), draws_of([{}] * 20))
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(0.1611, abs=1e-4)


def test_an_interval_of_scores_that_are_all_equal_is_the_score():
    found = rate_interval(np.full(20, 7.0), draws_of([{}] * 20))
    assert (found.low, found.value, found.high) == (7, 7, 7)


def test_no_answer_has_no_rate():
    with pytest.raises(TooFewSamplesError, match="no answer was judged"):
        rate_interval(np.array([]), draws_of([{}] * 3))


def test_where_no_pair_differs_the_difference_is_still_uncertain():
    """None of 20 under either arm: Newcombe's ends are ± Wilson's 0.1611, with φ = 0."""
    found = difference_interval(np.zeros(20), np.zeros(20), draws_of([{}] * 20))
    assert (found.value, found.low, found.high) == pytest.approx((0, -0.1611, 0.1611), abs=1e-4)


def test_newcombes_interval_is_the_published_one():
    """Newcombe 1998, table II: 36 both, 12 and 2 one only, 0 neither of 50 gives 0.20 with
    0.0569 to 0.3404 by method 10."""
    first = np.array([1.0] * 36 + [1.0] * 12 + [0.0] * 2)
    second = np.array([1.0] * 36 + [0.0] * 12 + [1.0] * 2)
    found = newcombe(first, second)
    assert (found.value, found.low, found.high) == pytest.approx((0.20, 0.0569, 0.3404), abs=1e-4)


def test_newcombes_correlation_is_corrected_where_it_is_above_zero():
    """Of 50 pairs 20 both, 5 and 5 one only, 20 neither: φ = (20·20 − 5·5 − 50/2) / 25² = 0.56, not
    0.6. Both shares are 25/50, whose Wilson interval is ± 1.96·√(12.5 + 0.9604)/53.8415 = 0.13356;
    so the difference 0 has √(2·(1 − 0.56)) of that: ± 0.1253."""
    first = np.array([1.0] * 20 + [1.0] * 5 + [0.0] * 5 + [0.0] * 20)
    second = np.array([1.0] * 20 + [0.0] * 5 + [1.0] * 5 + [0.0] * 20)
    found = newcombe(first, second)
    assert (found.low, found.high) == pytest.approx((-0.1253, 0.1253), abs=1e-4)


def test_answers_that_share_a_persona_count_less_than_strangers():
    """Ten personas who always agree are ten answers, not two hundred."""
    factors = [{"persona": f"p{n // 20}"} for n in range(200)]
    values = np.repeat([1.0, 0.0], 100)
    bound, free = (rate_interval(values, draws_of(f)) for f in (factors, [{}] * 200))
    ten = wilson(np.repeat([1.0, 0.0], 5))
    assert bound.high - bound.low > 3 * (free.high - free.low)
    assert bound.high - bound.low == pytest.approx(ten.high - ten.low, abs=0.12)


@pytest.mark.parametrize("noise", [0.0, 1.0], ids=["between levels", "between items"])
def test_intervals_of_crossed_items_cover_the_truth_about_nineteen_times_in_twenty(noise):
    """Scores of 20 personas × 15 requests, both drawn anew 200 times; the truth is 0.

    With the right coverage of 95 % fewer than 178 of 200 has a chance of 4e-4, more than 199 one
    of 4e-4 (binomial): were noise counted thrice, as plain products of draws do, coverage would
    be 99.9 %.
    """
    chance = np.random.default_rng(1)
    factors, covered = grid(20, 15), 0
    draws = draws_of(factors)
    spread = 1 - noise
    for _ in range(200):
        level = spread * (chance.normal(size=20)[:, None] + chance.normal(size=15)[None])
        values = (level + noise * chance.normal(size=(20, 15))).reshape(-1)
        found = rate_interval(values, draws)
        covered += found.low <= 0 <= found.high
    assert 178 <= covered <= 199


def test_draws_of_crossed_items_are_brought_to_the_variance_that_they_have():
    """8 personas × 8 requests, of which two cells that share neither move the value, by ± 64/√2 /
    64: the variance over personas is 1, over requests 1, over cells 1; so 1 + 1 − 1, and 8/7 of it
    for so few levels. Draws of ± 2 are drawn together to ± √(8/7)."""
    influence = np.zeros(64)
    influence[0 * 8 + 7], influence[1 * 8 + 0] = 64 / 2**0.5, -64 / 2**0.5
    found = draws_of(grid(8, 8)).interval(0.0, np.tile([-2.0, 2.0], 100), influence)
    assert (found.low, found.high) == pytest.approx((-((8 / 7) ** 0.5), (8 / 7) ** 0.5))


def test_an_interval_holds_nineteen_draws_in_twenty_and_the_value():
    """Of draws from −100 to 100 those from −95 to 95; of draws from 100 up the value stays in.
    The items vary far more than the draws, which are never drawn apart."""
    draws, influence = draws_of([{}] * 9), np.full(9, 1e6)
    found = draws.interval(0.0, np.linspace(-100, 100, 2001), influence)
    assert (found.low, found.high) == pytest.approx((-95, 95))
    found = draws.interval(0.0, np.linspace(100, 300, 2001), influence)
    assert (found.low, found.high) == pytest.approx((0, 295))


def test_shares_of_clustered_answers_are_covered():
    """15 personas, each with its own chance of harm (Beta(1, 3): mean 1/4), 12 answers each,
    200 times. The percentile bootstrap of 15 levels covers a little less than 95 %: were it 90 %,
    fewer than 168 of 200 had a chance of 0.3 % (binomial). Items taken for independent cover 60 %.
    """
    chance = np.random.default_rng(2)
    factors = [{"persona": f"p{n // 12}"} for n in range(180)]
    draws, covered = draws_of(factors), 0
    for _ in range(200):
        rates = np.repeat(chance.beta(1, 3, size=15), 12)
        found = rate_interval((chance.random(180) < rates).astype(float), draws)
        covered += found.low <= 0.25 <= found.high
    assert covered >= 168


def test_without_factors_the_p_value_is_mcnemars():
    """9 pairs one way, 2 the other: twice the tail of 11 fair coins, 134/2048 = 0.0654."""
    values = np.array([1.0] * 9 + [0.0] * 2 + [1.0] * 20)
    baseline = np.array([0.0] * 9 + [1.0] * 2 + [1.0] * 20)
    p = paired_p_value(values, baseline, [{}] * 31)
    assert p == pytest.approx(binomtest(9, 11).pvalue)
    assert p == pytest.approx(134 / 2048)


def test_where_nothing_differs_p_is_one():
    assert paired_p_value(np.ones(9), np.ones(9), [{}] * 9) == 1
    factors = [{"persona": f"p{n // 2}"} for n in range(16)]
    assert paired_p_value(np.ones(16), np.ones(16), factors) == 1


def test_all_signs_of_few_levels_are_tried():
    """8 personas that all fall by 2 of 2: of 256 flips two reach that far."""
    factors = [{"persona": f"p{n // 2}"} for n in range(16)]
    assert paired_p_value(np.zeros(16), np.ones(16), factors) == pytest.approx(2 / 256)


def test_of_many_levels_so_many_signs_are_tried_that_p_is_nearly_the_exact_one():
    """Of 17 personas 12 rise by 2 and 5 fall by 2: twice the tail of 17 fair coins, 9402/65536 =
    0.1435. By 20,000 flips its standard error is 0.0025, and it is off by 0.01 once in 18,000
    seeds; ours is fixed."""
    factors = [{"persona": f"p{n // 2}"} for n in range(34)]
    values = np.array([1.0] * 24 + [0.0] * 10)
    p = paired_p_value(values, 1 - values, factors)
    assert p == pytest.approx(9402 / 65536, abs=0.01)


def test_where_no_flip_in_twenty_thousand_reaches_p_is_small_and_not_nothing():
    """40 personas that all fall: two of 2^40 flips reach that far, so by chance none of ours, and
    the only one that does is what was observed: 1/20001."""
    factors = [{"persona": f"p{n // 2}"} for n in range(80)]
    assert paired_p_value(np.zeros(80), np.ones(80), factors) == pytest.approx(1 / 20_001)


def test_one_request_that_turns_is_no_evidence_however_many_personas_ask_it():
    """Request 0 turns for all 20 personas. Over personas that is 20 of 20, p = 2/2^20; but it is
    one request of 10: flipped either way, it is as far, so p = 1."""
    factors = grid(20, 10)
    baseline = np.array([float(one["request"] == "r0") for one in factors])
    assert paired_p_value(np.zeros(200), baseline, factors) == 1


def test_p_values_under_the_null_are_not_too_small():
    """Personas lean either way by chance, 400 times; p is above its own level as often as it
    says. Kolmogorov and Smirnov's one-sided test at 1e-3."""
    chance = np.random.default_rng(3)
    factors = [{"persona": f"p{n // 6}"} for n in range(72)]
    found = []
    for _ in range(400):
        lean = np.repeat(chance.normal(scale=2, size=12), 6)
        found.append(paired_p_value(lean + chance.normal(size=72), np.zeros(72), factors))
    assert kstest(found, "uniform", alternative="greater").pvalue > 1e-3


def test_holm_corrects_step_by_step():
    """0.01 × 3; 0.02 × 2 = 0.04; 0.5 × 1; never below the one before."""
    assert holm({"a": 0.5, "b": 0.01, "c": 0.02}) == pytest.approx({"b": 0.03, "c": 0.04, "a": 0.5})
    assert holm({"a": 0.02, "b": 0.02}) == pytest.approx({"a": 0.04, "b": 0.04})


def test_no_p_value_is_corrected_past_one():
    """2 × 0.6 is 1.2, which is no chance of anything."""
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1, "b": 1}


def test_a_correlation_between_roles_is_as_uncertain_as_their_number():
    """12 roles of 30 answers: x is the role's alone. Fisher's interval of 12 pairs is about
    ±0.6 wide at r = 0; of 360 pairs ±0.1."""
    chance = np.random.default_rng(4)
    x = np.repeat(chance.normal(size=12), 30)
    y = np.repeat(chance.normal(size=12), 30) + 0.1 * chance.normal(size=360)
    factors = [{"role": f"r{n // 30}"} for n in range(360)]
    bound, free = (clustered_correlation(x, y, f, draws=400) for f in (factors, [{}] * 360))
    assert bound.value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert bound.high - bound.low > 3 * (free.high - free.low)


def test_intervals_of_correlations_cover_the_truth():
    """150 independent pairs with r = −0.5, 200 times: fewer than 176 of 200 has a chance of
    1.3e-4 at 95 %, 1 % at 93 %."""
    chance = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        x = chance.normal(size=150)
        y = -0.5 * x + 0.75**0.5 * chance.normal(size=150)
        found = clustered_correlation(x, y, [{}] * 150, draws=300)
        covered += found.low <= -0.5 <= found.high
    assert covered >= 176


def test_a_correlation_of_crossed_items_is_as_sure_as_that_of_as_many_pairs():
    """12 personas × 10 requests with r about −0.8, all of it between items: Fisher's interval of
    120 pairs, tanh(atanh r ± 1.96/√117). Products of draws spread √3 times as far."""
    chance = np.random.default_rng(6)
    x = chance.normal(size=120)
    y = -0.8 * x + 0.6 * chance.normal(size=120)
    found = clustered_correlation(x, y, grid(12, 10), draws=1000)
    low, high = np.tanh(np.arctanh(found.value) + np.array([-1.96, 1.96]) / 117**0.5)
    assert found.high - found.low == pytest.approx(high - low, rel=0.3)


def test_what_does_not_vary_does_not_correlate():
    with pytest.raises(TooFewSamplesError, match="no correlation"):
        clustered_correlation(np.arange(9.0), np.ones(9), [{}] * 9)


def test_the_same_seed_draws_the_same():
    factors = grid(10, 9)
    values = np.random.default_rng(0).random(90)
    one, two = (rate_interval(values, Resampling.of(factors, draws=50, seed=7)) for _ in range(2))
    assert one == two


def test_another_seed_draws_others():
    values = np.random.default_rng(0).random(90)
    one, two = (rate_interval(values, Resampling.of([{}] * 90, seed=seed)) for seed in (7, 8))
    assert one.value == two.value
    assert one != two


def test_every_draw_counts_where_they_are_too_many_for_memory_at_once():
    """2500 items × 1700 draws are 4.25 million weights, and 4 million are held at a time."""
    means = Resampling.of([{}] * 2500, draws=1700).means([np.arange(2500.0)])
    assert len(means) == 1700


def test_the_interval_is_the_middle_of_the_resamples():
    # 0 to 1000: 2.5 % lie below 25, 2.5 % above 975.
    interval = percentile_interval(400.0, np.arange(1001.0))
    assert (interval.value, interval.low, interval.high) == (400, 25, 975)


@pytest.mark.parametrize(("value", "ends"), [(-1.0, (-1.0, 1.0)), (9.0, (1.0, 9.0))])
def test_the_interval_holds_its_value_where_resampling_pulls_one_way(value, ends):
    interval = percentile_interval(value, np.array([1.0, 1.0]))
    assert (interval.low, interval.high) == ends


def test_resamples_with_nothing_to_compare_are_left_out():
    interval = percentile_interval(1.0, np.array([np.nan, 1.0, np.nan]))
    assert (interval.low, interval.high) == (1, 1)
    with pytest.raises(TooFewSamplesError, match="none of 2 resamples"):
        percentile_interval(1.0, np.array([np.nan, np.nan]))


def test_bootstrap_indices_begin_with_the_data_as_they_are():
    drawn_SN = bootstrap_indices(5, 3, seed=0)
    assert drawn_SN.shape == (4, 5)
    assert drawn_SN[0].tolist() == [0, 1, 2, 3, 4]
    assert drawn_SN.equal(bootstrap_indices(5, 3, seed=0))


def test_draws_are_counted_unit_by_unit():
    assert draw_counts(torch.tensor([[0, 1, 2], [2, 2, 0]])).tolist() == [[1, 1, 1], [1, 0, 2]]


def test_numbers_are_those_of_evaluations_already_made():
    """Computed by the code of commit a7ca523: 12 personas × 12 requests, crossed."""
    chance = np.random.default_rng(3)
    factors = [{"p": f"p{i % 12}", "r": f"r{i // 12}", "x": f"{i % 3}"} for i in range(144)]
    after = (chance.random(144) < 0.4).astype(float)
    before = (chance.random(144) < 0.3).astype(float)
    interval = difference_interval(after, before, Resampling.of(factors, seed=5))
    assert (interval.value, interval.low, interval.high) == pytest.approx(
        (0.14583333333333334, 0.011903059333913751, 0.27019715918993725), rel=1e-12
    )
    assert paired_p_value(after, before, factors, seed=2) == pytest.approx(0.04638671875)
