"""What is said of a result in words, on whatever scale it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from keel.evaluate.conclusions import conclude
from keel.types import ArmResult, ControlMatch, EvalResult, Interval

LESS = Interval(-0.3, -0.4, -0.2)
HALF = Interval(0.5, 0.3, 0.7)


def told(plain: Interval, change: Interval) -> str:
    arms = (
        ArmResult("none", 20, plain, {}),
        ArmResult("capped", 20, plain, {}, difference=change, p_value=0.4, p_holm=0.4),
    )
    return "\n".join(conclude(EvalResult("s", "score", "j", "", arms), {}))


def lowered(name: str = "capped", **more: float) -> ArmResult:
    """An arm that lowers a rate by 30 points, which is shown unless told otherwise."""
    return ArmResult(name, 20, HALF, {}, difference=LESS, **{"p_value": 0.01, **more})


def concluded(
    *arms: ArmResult,
    contrasts: Mapping[tuple[str, str], Interval] | None = None,
    plain: ArmResult = ArmResult("none", 20, HALF, {}),
    correlation: Interval | None = None,
) -> str:
    result = EvalResult("s", "harm", "j", "", (plain, *arms), correlation=correlation)
    return "\n".join(conclude(result, contrasts or {}))


def test_shares_are_told_in_points():
    said = told(Interval(0.5, 0.3, 0.7), Interval(-0.08, -0.2, 0.1))
    assert "50\xa0% (30\xa0% to 70\xa0%) score" in said
    assert "−8 points (−20 to +10" in said


def test_scores_keep_their_own_scale_however_small_the_change():
    """EQ-Bench goes to 100: a change of 0.8 was told as 80 points."""
    said = told(Interval(42.0, 35.0, 49.0), Interval(0.8, -0.5, 0.9))
    assert "42 (35 to 49) score" in said
    assert "+0.8 (−0.5 to +0.9" in said
    assert "points" not in said


def test_what_the_correction_takes_away_is_not_shown():
    """p is 0.03 by itself and 0.09 among three arms."""
    assert "capped lowers harm" in concluded(lowered(p_value=0.03, p_holm=0.03))
    assert "capped: no difference in harm is shown" in concluded(lowered(p_value=0.03, p_holm=0.09))


def test_each_arm_is_held_against_its_own_control():
    """The step's control goes as far as the step; the cap had none."""
    alike = {("steered:-1", "random:-1"): Interval(0.0, -0.1, 0.1)}
    step, cap = concluded(lowered("steered:-1"), lowered(), contrasts=alike).splitlines()[1:]
    assert "Its control random:-1 is not told apart from it" in step
    assert "No control was run beside it" in cap


def test_a_control_that_does_more_leaves_the_axis_no_credit():
    """The cap lowers harm by 30 points and its control by 50: apart, but the wrong way."""
    more = {("capped", "random"): Interval(0.2, 0.1, 0.3)}
    assert "cannot be put down to the axis" in concluded(lowered(), contrasts=more)


def test_what_holds_against_each_control_is_claimed_by_the_nearest():
    """The second draw comes nearer, by 10 points against 30."""
    apart = {
        ("capped", "random"): Interval(-0.3, -0.4, -0.2),
        ("capped", "random#2"): Interval(-0.1, -0.15, -0.05),
    }
    said = concluded(lowered(), lowered("random"), lowered("random#2"), contrasts=apart)
    assert "more than each of random and random#2 does: than random#2, the nearest, by −10" in said


def test_what_does_not_hold_against_each_control_is_not_claimed():
    """More than two of three draws is as much as any push might do."""
    mixed = {
        ("capped", "random"): Interval(-0.3, -0.4, -0.2),
        ("capped", "random#2"): Interval(-0.1, -0.3, 0.1),
        ("capped", "random#3"): Interval(-0.05, -0.3, 0.1),
    }
    said = concluded(lowered(), contrasts=mixed)
    assert "Its controls random#2 and random#3 are not told apart from it" in said
    assert "more than" not in said


def test_a_control_that_pushes_less_leaves_the_claim_open():
    """It lifts a token by 8 where the cap lifts it by 24, as often as it may fire."""
    apart = {("capped", "random"): Interval(-0.3, -0.4, -0.2)}
    weak, strong = (
        replace(lowered("random"), match=ControlMatch(0.75, 0.74, lift, 24.0)) for lift in (8, 23)
    )
    said = concluded(lowered(), weak, contrasts=apart)
    assert "none of its controls pushes as far: random lifts a token by 8 " in said
    assert "run random-lift" in said
    assert "pushes as far" not in concluded(lowered(), strong, contrasts=apart)


def test_controls_are_no_findings_of_their_own():
    assert "random" not in concluded(lowered(), lowered("random#2"))


def test_answers_far_less_likely_than_the_models_own_are_told():
    """Perplexity 16 against 10 is 1.6 times as much, 15 is 1.5 times."""
    plain = ArmResult("none", 20, HALF, {}, perplexity=10.0)
    odd, usual = (concluded(lowered(perplexity=p), plain=plain) for p in (16.0, 15.0))
    assert "perplexity 16 against 10" in odd
    assert "perplexity" not in usual


def test_nonsense_that_was_there_before_is_no_damage():
    """30 % make no sense with the cap and 25 % without: 5 points more, where 10 are told."""
    plain = ArmResult("none", 20, HALF, {}, nonsensical_rate=0.25)
    assert "make no sense" not in concluded(lowered(nonsensical_rate=0.3), plain=plain)
    assert "make no sense" in concluded(lowered(nonsensical_rate=0.36), plain=plain)


def test_a_correlation_is_told_with_its_way_where_it_has_one():
    assert "the less of it in the second" in concluded(correlation=Interval(-0.4, -0.6, -0.2))
    assert "the more of it in the second" in concluded(correlation=Interval(0.4, 0.2, 0.6))
    for low, high in ((-0.6, 0.1), (-0.1, 0.6)):
        assert "is not shown" in concluded(correlation=Interval((low + high) / 2, low, high))
