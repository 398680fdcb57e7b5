"""Agreement of two judges, against numbers worked out by hand."""

from __future__ import annotations

from random import Random

import pytest

from keel.errors import TooFewSamplesError
from keel.judge import agree

# A textbook table: 50 cases, yes/yes 20, yes/no 5, no/yes 10, no/no 15.
A = {str(n): "yes" if n < 25 else "no" for n in range(50)}
B = {str(n): "yes" if n < 20 or 25 <= n < 35 else "no" for n in range(50)}


def test_kappa_takes_out_what_chance_would_give():
    """Agreement 35/50 = 0.7; by chance 0.5·0.6 + 0.5·0.4 = 0.5; κ = (0.7 − 0.5) / 0.5 = 0.4."""
    found = agree(A, B)
    assert found.kappa is not None
    assert found.agreement.value == pytest.approx(0.7)
    assert found.kappa.value == pytest.approx(0.4)
    assert found.kappa.low < 0.4 < found.kappa.high


def test_the_table_counts_each_pair_of_labels():
    found = agree(A, B)
    assert found.labels == ("no", "yes")
    assert found.table == ((15, 10), (5, 20))


def test_a_judge_agrees_with_itself_fully():
    """Of 50 cases, so it may be wrong in 7 % of others: Wilson's 50/(50 + z²) = 0.9286, from which
    κ at a chance of 0.5 is (0.9286 − 0.5)/0.5 = 0.857."""
    found = agree(A, A)
    assert found.kappa is not None
    assert (found.agreement.value, found.kappa.value, found.kappa.high) == (1, 1, 1)
    assert found.kappa.low == pytest.approx(0.857, abs=1e-3)


def test_two_judges_swapped_agree_as_much_and_the_table_is_turned():
    there, back = agree(A, B), agree(B, A)
    assert there.kappa == back.kappa
    assert there.table == tuple(zip(*back.table, strict=True))


def test_judges_who_guess_agree_by_chance_alone():
    """κ of 400 pairs of coin throws has a standard deviation of 0.05: |κ| ≥ 0.2 once in 15,000."""
    chance = Random(1)
    a, b = ({str(n): chance.choice("ab") for n in range(400)} for _ in range(2))
    found = agree(a, b)
    assert found.kappa is not None
    assert abs(found.kappa.value) < 0.2


def test_where_both_say_one_thing_only_there_is_no_kappa():
    found = agree({"1": "a", "2": "a"}, {"1": "a", "2": "a"})
    assert found.kappa is None
    assert found.agreement.value == 1


def test_a_judge_with_one_label_has_a_kappa_of_nothing():
    """One says always `a`: agreement is chance exactly, κ = 0."""
    found = agree({"1": "a", "2": "a", "3": "a"}, {"1": "a", "2": "b", "3": "a"})
    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(0)


def test_only_cases_that_both_labelled_count_and_the_others_are_told():
    found = agree({"1": "a", "2": "a", "x": "a"}, {"1": "a", "2": "b", "y": "a", "z": "b"})
    assert (found.n, found.only_a, found.only_b) == (2, 1, 2)


@pytest.mark.parametrize(("items", "low"), [(1, 0.0), (2, 0.0), (4, 0.28)])
def test_few_items_under_many_arms_are_few_witnesses(items: int, low: float):
    """Four items under five arms each were twenty: 95 % held in 41 % of draws. Wilson's of four
    that all agree, at Student's t of three degrees of freedom: 4 / (4 + 3.18²) = 0.283."""
    labels = {f"i{i}#arm{arm}": "ab"[i % 2] for i in range(items) for arm in range(5)}
    found = agree(labels, labels)
    assert found.n == 5 * items
    assert found.agreement.low == pytest.approx(low, abs=0.025)
    if found.kappa is not None:
        assert found.kappa.low == pytest.approx(2 * found.agreement.low - 1)


def test_judges_of_other_answers_cannot_be_compared():
    with pytest.raises(TooFewSamplesError, match=r"0 cases were labelled by both \(of 1 and 1\)"):
        agree({"1": "a"}, {"2": "a"})


def test_the_interval_of_agreement_is_wilsons():
    """p = 0.7, n = 50, z = 1.96: centre (0.7 + 0.038416) / 1.076832 = 0.68573, half-width
    1.82015 · √(0.0042 + 0.00038416) = 0.12324, so 0.5625 to 0.8090."""
    found = agree(A, B).agreement
    assert (found.low, found.high) == pytest.approx((0.5625, 0.8090), abs=2e-4)


def test_labels_that_are_numbers_stand_in_their_order():
    scores = {str(n): str(n) for n in (0, 2, 10)}
    assert agree(scores, scores).labels == ("0", "2", "10")


def test_a_judge_who_is_as_often_right_as_it_says_is_calibrated():
    """Four cases at 0.75, three of them confirmed: off by nothing."""
    b = {"1": "x", "2": "x", "3": "x", "4": "y"}
    found = agree(dict.fromkeys("1234", "x"), b, confidences_a=dict.fromkeys("1234", 0.75))
    assert found.calibration_error_a == pytest.approx(0)
    assert found.calibration_error_b is None


def test_the_calibration_error_is_the_mean_gap_over_bins_by_their_size():
    """0.95 twice, one right: gap 0.45. 0.55 twice, both right: gap 0.45. 1.0 once, right: 0.
    But 1.0 and 0.95 share the last bin: (0.95 + 0.95 + 1) / 3 − 2/3 = 0.3; (3·0.3 + 2·0.45) / 5."""
    sure = {"1": 0.95, "2": 0.95, "3": 0.55, "4": 0.55, "5": 1.0}
    b = {"1": "x", "2": "y", "3": "x", "4": "x", "5": "x"}
    found = agree(dict.fromkeys("12345", "x"), b, confidences_a=sure)
    assert found.calibration_error_a == pytest.approx(0.36)


def test_cases_of_one_item_are_not_independent():
    """Six items judged under ten arms each, `item#answer`: as uncertain as six cases are."""
    a = {f"{item}#{arm}": "xy"[item % 2] for item in range(6) for arm in range(10)}
    b = {id: "xyxyyx"[int(id[0])] for id in a}
    apart = agree(
        {k.replace("#", "-"): v for k, v in a.items()},
        {k.replace("#", "-"): v for k, v in b.items()},
    )
    assert agree(a, b).agreement.value == apart.agreement.value
    for width in ("agreement", "kappa"):
        bound, free = (getattr(each, width) for each in (agree(a, b), apart))
        assert bound.high - bound.low > 2 * (free.high - free.low)
