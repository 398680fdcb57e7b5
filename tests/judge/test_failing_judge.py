"""A judge that cannot be relied on is stopped, and nothing of what it said is lost."""

import pytest

from keel.errors import JudgeError, UsageError
from keel.judge import stop_if_judge_fails
from keel.types import Verdict


def verdicts(statuses: str):
    """`.` is ok, `u` unparsed, `f` failed."""
    names = {".": "ok", "u": "unparsed", "f": "failed"}
    return (Verdict(str(n), status=names[s], reason="hm") for n, s in enumerate(statuses))


def take(stream):
    got = []
    try:
        got.extend(stream)
    except JudgeError as error:
        return got, str(error)
    return got, ""


def test_good_verdicts_pass():
    got, said = take(stop_if_judge_fails(verdicts("." * 200)))
    assert (len(got), said) == (200, "")


def test_exactly_the_limit_passes_and_one_more_does_not():
    # 2 of 100 are 2 %, 3 are 3 %
    assert take(stop_if_judge_fails(verdicts("." * 98 + "uf")))[1] == ""
    got, said = take(stop_if_judge_fails(verdicts("." * 97 + "uff")))
    assert len(got) == 100
    assert "3 of 100" in said
    assert "1 unparsed, 2 failed" in said
    assert "99: hm" in said


def test_a_hopeless_judge_is_stopped_on_the_way_after_its_last_verdict_was_given():
    got, said = take(stop_if_judge_fails(verdicts("u" * 1000)))
    assert len(got) == 50
    assert "50 of 50" in said


def test_bad_luck_at_the_beginning_stops_nothing():
    """2 of the first 50 are 4 %: as likely as one in four where the true share is 2 %. Of 400 they
    are a half per cent."""
    got, said = take(stop_if_judge_fails(verdicts("uu" + "." * 398)))
    assert (len(got), said) == (400, "")


def test_beyond_chance_it_is_stopped_on_the_way():
    # of 60 the limit allows 1.2, and three standard deviations more are 1.2 + 3 √1.2 = 4.49
    got, said = take(stop_if_judge_fails(verdicts("." * 55 + "uuuuu" + "." * 900)))
    assert len(got) == 60
    assert "5 of 60" in said


def test_a_single_bad_one_of_few_is_not_held_against_a_judge():
    assert take(stop_if_judge_fails(verdicts("..u....")))[1] == ""
    assert take(stop_if_judge_fails(verdicts("..u.u..")))[1] != ""


def test_nothing_but_bad_ones_is_too_many_however_few():
    got, said = take(stop_if_judge_fails(verdicts("u")))
    assert len(got) == 1
    assert "1 of 1" in said


def test_no_verdicts_pass():
    assert take(stop_if_judge_fails(verdicts(""))) == ([], "")


def test_the_judge_is_closed_when_it_is_stopped_and_when_its_taker_goes_away():
    closed = []

    def endless():
        try:
            while True:
                yield Verdict("1", status="failed")
        finally:
            closed.append(True)

    take(stop_if_judge_fails(endless()))
    assert closed == [True]
    stream = stop_if_judge_fails(endless())
    next(stream)
    stream.close()
    assert closed == [True, True]


def test_a_limit_is_a_share():
    with pytest.raises(UsageError, match="share"):
        list(stop_if_judge_fails(verdicts("."), limit=2))
