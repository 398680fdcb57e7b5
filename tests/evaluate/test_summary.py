"""What a table of arms says: rates, what is left out, and which sentence follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keel.errors import TooFewSamplesError
from keel.evaluate import ArmAnswers, SummarySettings, cases_of, summarise_arms
from keel.steering import Firing
from keel.types import (
    Answered,
    Conversation,
    EvalResult,
    Item,
    Message,
    Rubric,
    RubricLabel,
    Scoring,
    Suite,
    Verdict,
)

RUBRIC = Rubric(
    "harm",
    1,
    "?",
    (RubricLabel("fine", "."), RubricLabel("harmful", "."), RubricLabel("nonsensical", ".")),
)


def items(count: int) -> tuple[Item, ...]:
    talk = Conversation((Message("user", "do it"),))
    return tuple(Item(f"i{n}", talk, {"persona": f"p{n}"}) for n in range(count))


def suite(count: int, **more: object) -> Suite:
    return Suite("s", items(count), "harm", "harmful answers", ("harmful",), **more)


def arm(name: str, said: str, **more: object) -> ArmAnswers:
    """One letter per item: what is answered, and by it how it is judged."""
    answers = tuple(
        Answered(f"i{n}", name, f"{letter} {name if letter == 'u' else ''}", 3, "stop", 1.0, 2.0)
        for n, letter in enumerate(said)
    )
    return ArmAnswers(name, answers, **more)


LABELS = {"h": "harmful", "f": "fine", "n": "nonsensical"}


def verdicts(asked: Suite, arms: list[ArmAnswers]) -> dict[str, Verdict]:
    found = {}
    for case in cases_of(asked.items, {one.name: one.answers for one in arms}):
        letter = case.conversation.messages[-1].content[0]
        is_judged = letter in LABELS
        found[case.id] = (
            Verdict(case.id, LABELS[letter]) if is_judged else Verdict(case.id, status="failed")
        )
    return found


def summed(asked: Suite, *arms: ArmAnswers, settings: SummarySettings = SummarySettings()):
    scoring = Scoring(asked, RUBRIC, "j")
    return summarise_arms(scoring, arms, verdicts(asked, list(arms)), settings)


def test_rates_are_shares_of_the_counted_labels():
    """6 of 12 against 0 of 12: difference −0.5, McNemar's mid-p = 1/2^6."""
    found = summed(suite(12), arm("none", "hhhhhhffffff"), arm("capped", "ffffffffffff"))
    capped = found.arm("capped")
    assert (found.arm("none").rate.value, capped.rate.value) == (0.5, 0)
    assert capped.difference is not None
    assert capped.difference.value == -0.5
    assert capped.p_value == pytest.approx(1 / 2**6)
    assert found.arm("none").labels == {"fine": 0.5, "harmful": 0.5, "nonsensical": 0}


def test_what_was_not_judged_is_left_out_of_both_sides_of_a_pair():
    """Item 0 is not judged under the cap: 11 pairs, of which 5 fall."""
    found = summed(suite(12), arm("none", "hhhhhhffffff"), arm("capped", "ufffffffffff"))
    capped = found.arm("capped")
    assert (capped.n, capped.unjudged) == (11, 1)
    assert capped.difference is not None
    assert capped.difference.value == pytest.approx(-5 / 11)
    assert capped.p_value == pytest.approx(1 / 2**5)


def test_shares_of_labels_are_of_what_was_judged():
    """Of 12 answers 3 are not judged; of the 9 others 6 are harmful."""
    found = summed(suite(12), arm("none", "hhhhhhfffuuu")).arm("none")
    assert found.labels == pytest.approx({"fine": 3 / 9, "harmful": 6 / 9, "nonsensical": 0})


def test_p_values_of_several_arms_are_corrected():
    """p = 1/2^6 twice: times two each."""
    arms = (arm("none", "hhhhhhffffff"), arm("a", "f" * 12), arm("b", "f" * 12))
    assert summed(suite(12), *arms).arm("a").p_holm == pytest.approx(2 / 2**6)


def test_an_arm_that_lacks_an_answer_is_refused():
    with pytest.raises(TooFewSamplesError, match="no answer to 1 of 12 items, such as 'i11'"):
        summed(suite(12), arm("none", "h" * 11))


def test_an_arm_of_which_nothing_was_judged_is_refused():
    with pytest.raises(TooFewSamplesError, match="no answer was judged"):
        summed(suite(12), arm("none", "u" * 12))


def test_an_arm_that_changed_no_answer_is_pointed_at():
    found = summed(suite(12), arm("none", "h" * 12), arm("capped", "h" * 12))
    assert any("'capped' changed not one answer" in warning for warning in found.warnings)


def test_firing_length_perplexity_and_place_are_told():
    """Projection 1 raw is 0.5 gaps here; 3 of 4 slots moved."""
    settings = SummarySettings(in_gaps=lambda raw: raw / 2)
    capped = arm("capped", "f" * 12, firing=Firing({1: 3}, {1: 4}))
    found = summed(suite(12), arm("none", "h" * 12), capped, settings=settings).arm("capped")
    assert (found.firing_rate, found.mean_tokens, found.perplexity) == (0.75, 3, 2)
    assert found.projection_gaps == 0.5


def test_perplexity_is_the_middle_one_and_length_the_mean():
    """Of 1, 2 and 60 the middle is 2, whatever one odd answer is; of 1, 2 and 6 tokens the mean
    is 3."""
    answers = tuple(
        Answered(f"i{n}", "none", "h", tokens, "stop", 1.0, perplexity)
        for n, (tokens, perplexity) in enumerate([(1, 1.0), (2, 2.0), (6, 60.0)])
    )
    found = summed(suite(3), ArmAnswers("none", answers)).arm("none")
    assert (found.perplexity, found.mean_tokens) == (2, 3)


def test_the_bare_requests_have_a_rate_of_their_own_and_none_in_the_others():
    """Of 12 attacks 6 harm; of 4 requests asked alone 1. Under an arm only attacks are answered."""
    alone = tuple(replace(one, id=f"alone/{one.id}", is_baseline=True) for one in items(4))
    asked = replace(suite(12), items=(*items(12), *alone))
    plain = arm("none", "hhhhhhffffff")
    bare = (replace(one, item_id=f"alone/{one.item_id}") for one in arm("none", "hfff").answers)
    plain = replace(plain, answers=(*plain.answers, *bare))
    found = summed(asked, plain, arm("capped", "f" * 12))
    assert (found.arm("none").n, found.arm("none").rate.value) == (12, 0.5)
    assert found.baseline is not None
    assert (found.baseline.n, found.baseline.rate.value) == (4, 0.25)
    assert "Of the bare requests it is 25\xa0%" in found.reading[1]


def test_the_first_answers_place_is_held_against_what_the_second_counts_as():
    """The first answers rise by 1 from item to item, and only the upper half's second ones are
    calm; of two ones in the middle half harmed. The second answers all stand at 1."""
    told = arm("none", "h" * 12 + "f" * 12)
    placed = (replace(one, first_projection=float(n)) for n, one in enumerate(told.answers))
    found = summed(suite(24), replace(told, answers=tuple(placed)))
    # Of 0 to 23 and 12 ones, then zeros: covariance −3, deviations √(575/12) and 1/2.
    assert found.correlation is not None
    assert found.correlation.value == pytest.approx(-3 / ((575 / 12) ** 0.5 / 2))
    assert [(one.low, one.n, one.rate.value) for one in found.by_first_projection] == [
        (0, 12, 1),
        (11.5, 12, 0),
    ]
    assert "the less of it in the second" in found.reading[-1]


def shared(count: int, each: int) -> Suite:
    """Items of which so many each are one persona's."""
    found = (replace(i, factors={"persona": f"p{n // each}"}) for n, i in enumerate(items(count)))
    return replace(suite(count), items=tuple(found))


def test_answers_of_one_persona_are_one_witness():
    """8 personas fall in both their answers: of 8 fair coins, not of 16 (mid-p)."""
    arms = arm("none", "h" * 16), arm("capped", "f" * 16)
    assert summed(shared(16, 2), *arms).arm("capped").p_value == pytest.approx(1 / 2**8)
    assert summed(suite(16), *arms).arm("capped").p_value == pytest.approx(1 / 2**16)


def test_intervals_are_as_wide_as_personas_are_few():
    """Ten personas of twenty equal answers each are ten answers: about √20 times as wide."""
    plain, capped = arm("none", "h" * 100 + "f" * 100), arm("capped", "f" * 200)
    bound, free = (summed(asked, plain, capped) for asked in (shared(200, 20), suite(200)))
    for tell in (lambda r: r.arm("none").rate, lambda r: r.arm("capped").difference):
        wide, narrow = (tell(result) for result in (bound, free))
        assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_a_correlation_is_as_uncertain_as_personas_are_few():
    """Twelve personas of ten answers each, whose first answers stand where their number says."""
    letters = "".join(("h" if n in (0, 1, 2, 4, 7, 9) else "f") * 10 for n in range(12))
    told = arm("none", letters)
    placed = (replace(a, first_projection=float(n // 10)) for n, a in enumerate(told.answers))
    told = replace(told, answers=tuple(placed))
    wide, narrow = (summed(one, told).correlation for one in (shared(120, 10), suite(120)))
    assert wide is not None
    assert narrow is not None
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_what_was_said_against_an_arm_is_said_of_the_result():
    """A control that never fired says so before its answers are summed up."""
    settings = SummarySettings(warnings=("arm 'random': it shows nothing",))
    found = summed(suite(12), arm("none", "h" * 12), arm("random", "f" * 12), settings=settings)
    assert found.warnings == ("arm 'random': it shows nothing",)


def test_a_suite_that_counts_no_label_tells_the_mean_score():
    asked = Suite("s", items(12), "harm", "score", ())
    one = arm("none", "h" * 12)
    scored = {
        c.id: Verdict(c.id, "harmful", 0.25) for c in cases_of(asked.items, {"none": one.answers})
    }
    found = summarise_arms(Scoring(asked, RUBRIC, "j"), [one], scored)
    assert found.arm("none").rate.value == 0.25


@pytest.mark.parametrize("rubric", [
    Rubric("mark", 1, "?", low=0, high=10),
    Rubric("mark", 1, "?", tuple(RubricLabel(f"l{n}", ".", n) for n in (0, 5, 10))),
], ids=["scale", "labels"])  # fmt: skip
def test_low_marks_on_a_scale_are_no_shares(rubric: Rubric):
    """All twelve got 0 of 10: 0 (0 to 0.24), and the page said `0 %`."""
    asked = Suite("s", items(12), "mark", "mark", ())
    arms = [arm("none", "u" * 12), arm("capped", "f" * 12)]
    cases = cases_of(asked.items, {each.name: each.answers for each in arms})
    scored = {case.id: Verdict(case.id, "0", 0.0) for case in cases}
    found = summarise_arms(Scoring(asked, rubric, "j"), arms, scored)
    assert found.arm("none").rate.high == pytest.approx(2.42, abs=0.01)
    assert found.arm("capped").difference.high == pytest.approx(2.42, abs=0.01)
    assert not found.is_share
    assert not any("%" in sentence for sentence in found.reading)


def test_scores_that_are_very_skewed_are_said_to_be_beside_their_means():
    """One of twelve got 80 where the others have 0 to 2: Student's interval is then too narrow."""
    asked = Suite("s", items(12), "cost", "score", ())
    arms = [arm("none", "h" * 12), arm("capped", "f" * 12)]
    cases = {a.name: cases_of(asked.items, {a.name: a.answers}) for a in arms}

    def summed_up(plain: list[float], capped: list[float]) -> EvalResult:
        scores = zip((*cases["none"], *cases["capped"]), plain + capped, strict=True)
        verdicts = {case.id: Verdict(case.id, "harmful", score) for case, score in scores}
        return summarise_arms(Scoring(asked, RUBRIC, "j"), arms, verdicts)

    even = [0.0, 1.0, 2.0] * 4
    result = summed_up([*even[:11], 80.0], [0.5] * 12)
    assert [a.is_rate_skewed for a in result.arms] == [True, False]
    assert [a.is_difference_skewed for a in result.arms] == [False, True]
    said = "\n".join(result.reading)
    assert "So skewed are the scores that this interval is likely too narrow." in said
    assert "too narrow, and p too small." in said
    plain = summed_up(even, even[::-1])
    assert not any(a.is_rate_skewed or a.is_difference_skewed for a in plain.arms)
    assert "skewed" not in "\n".join(plain.reading)


def test_rare_shares_are_never_called_skewed():
    """One of 24: Wilson's interval is made for that."""
    result = summed(suite(24), arm("none", "h" + "f" * 23), arm("capped", CALM))
    assert not any(a.is_rate_skewed or a.is_difference_skewed for a in result.arms)


def test_a_verdict_without_a_score_is_no_score_of_nothing():
    """Eleven scores of 2 and one missing: their mean is 2, of 11."""
    asked = Suite("s", items(12), "harm", "score", ())
    one = arm("none", "h" * 12)
    cases = cases_of(asked.items, {"none": one.answers})
    scored = {c.id: Verdict(c.id, "harmful", 2.0 if n else None) for n, c in enumerate(cases)}
    found = summarise_arms(Scoring(asked, RUBRIC, "j"), [one], scored).arm("none")
    assert (found.rate.value, found.n, found.unjudged) == (2, 11, 1)


def test_an_empty_answer_stands_nowhere():
    """Of projections 1 and none the mean is 1."""
    first, second = arm("none", "hh").answers
    told = ArmAnswers("none", (first, replace(second, projection=None)))
    found = summed(suite(2), told, settings=SummarySettings(in_gaps=lambda raw: raw))
    assert found.arm("none").projection_gaps == 1


def reading_of(asked: Suite, *arms: ArmAnswers) -> str:
    return "\n".join(summed(asked, *arms).reading)


HALF = "h" * 12 + "f" * 12
CALM = "f" * 24


def test_a_cap_that_does_what_its_control_does_is_not_put_down_to_the_axis():
    told = reading_of(suite(24), arm("none", HALF), arm("capped", CALM), arm("random", CALM))
    assert "capped lowers harmful answers" in told
    assert "cannot be put down to the axis" in told


def test_a_cap_that_does_more_than_its_control_is_said_to():
    told = reading_of(suite(24), arm("none", HALF), arm("capped", CALM), arm("random", HALF))
    assert "That is more than random does" in told


def test_every_draw_of_a_control_is_held_against_the_cap():
    draws = (arm("random", CALM), arm("random#2", HALF))
    told = reading_of(suite(24), arm("none", HALF), arm("capped", CALM), *draws)
    assert "Its control random is not told apart" in told
    assert "That is more than" not in told


def test_a_change_without_a_control_is_left_open():
    told = reading_of(suite(24), arm("none", HALF), arm("capped", CALM))
    assert "No control was run" in told


def test_too_few_items_show_nothing_and_it_is_said():
    told = reading_of(suite(6), arm("none", "hhffff"), arm("capped", "hfffff"))
    assert "no difference in harmful answers is shown" in told
    assert "cannot be ruled out" in told


def test_answers_that_make_no_sense_are_no_success():
    told = reading_of(suite(24), arm("none", HALF), arm("steered:-0.5", "n" * 24))
    assert "100\xa0% of its answers make no sense (0\xa0% unsteered)" in told


def test_a_steps_control_is_the_step_of_the_same_length():
    told = reading_of(
        suite(24), arm("none", HALF), arm("steered:-0.5", CALM), arm("random:-1", CALM)
    )
    assert "No control was run beside it" in told


def test_items_that_an_arm_makes_worse_are_counted_beside_its_mean():
    """Of 12, three stop harming and one begins to: 1/12, though the rate falls."""
    result = summed(suite(12), arm("none", "hhhfffffffff"), arm("capped", "fffhffffffff"))
    capped = result.arm("capped")
    assert capped.worse is not None
    assert capped.worse.value == pytest.approx(1 / 12)
    assert result.arm("none").worse is None


def test_where_higher_is_better_worse_items_are_those_that_fell():
    """The same answers: of 12, three that counted count no more, and one begins to."""
    asked = suite(12, is_higher_better=True)
    result = summed(asked, arm("none", "hhhfffffffff"), arm("capped", "fffhffffffff"))
    capped = result.arm("capped")
    assert capped.worse is not None
    assert capped.worse.value == pytest.approx(3 / 12)


def test_of_few_personas_nothing_is_shown():
    """Four personas of ten requests all stop harming: true of these four."""
    arms = arm("none", "h" * 40), arm("capped", "f" * 40)
    result = summed(shared(40, 10), *arms)
    assert result.fixed == {"persona": 4}
    assert "for the 4 personas asked alone; with so few, nothing is shown" in result.reading[1]
    assert summed(shared(40, 5), *arms).levels == {"persona": 8}
    assert "capped lowers" in summed(shared(40, 5), *arms).reading[1]
