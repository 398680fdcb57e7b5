"""The judge behind an address keeps to its limits, stops cleanly, and says what it took."""

import sys
import threading
from collections import Counter
from itertools import combinations
from signal import SIGINT, pthread_kill
from threading import Barrier, Event, Timer
from time import monotonic, sleep

import pytest

from keel.errors import BudgetError, MissingExtraError, UsageError
from keel.judge import EndpointGrader
from keel.settings import EndpointLimits
from keel.types import Case, Conversation, Grader, Message, Rubric
from tests.endpoint.asking import SCALE, TONE, cases, grader, label_of, truly, until_error
from tests.endpoint.server import refuse, say, serving


def alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("keel-endpoint")]


def test_every_case_is_asked_once_and_gets_its_own_verdict():
    with serving(truly) as served:
        judge = grader(served)
        verdicts = list(judge.grade(cases(30), TONE))
    assert isinstance(judge, Grader)
    assert {v.case_id: v.label for v in verdicts} == {str(n): label_of(str(n)) for n in range(30)}
    assert len(verdicts) == 30
    assert Counter(asked.case for asked in served.asked) == {str(n): 1 for n in range(30)}
    assert {v.score for v in verdicts if v.label == "warm"} == {1.0}


def test_no_cases_ask_nothing():
    with serving(truly) as served:
        assert list(grader(served).grade([], TONE)) == []
    assert served.asked == []


def test_a_number_on_a_scale_is_label_and_score():
    with serving(lambda *_: say("On a scale from 0 to 3, this scores 2")) as served:
        (verdict,) = grader(served).grade(cases(1), SCALE)
    assert (verdict.label, verdict.score, verdict.confidence) == ("2", 2.0, None)


def test_as_many_requests_are_in_flight_as_there_are_workers_and_no_more():
    with serving(lambda n, asked: say("warm", after_s=0.05)) as served:
        assert len(list(grader(served, workers=5).grade(cases(30), TONE))) == 30
    assert served.most_at_once == 5


def test_an_endpoint_that_has_answered_is_asked_by_all_workers_at_once():
    """Each is answered only once all four are there."""
    together = Barrier(4)

    def behave(number, asked):
        if number > 0:
            together.wait(20)
        return truly(number, asked)

    with serving(behave) as served:
        judge = grader(served, workers=4, timeout_s=30)
        assert len(list(judge.grade(cases(1), TONE))) == 1
        assert len(list(judge.grade(cases(4), TONE))) == 4
    assert len(served.asked) == 5


def test_a_slow_case_holds_up_no_other():
    """It is answered only once all others have been judged; were it waited for, it would fail."""
    others_are_done = Event()

    def behave(number, asked):
        if asked.case == "3":
            assert others_are_done.wait(20)
        return truly(number, asked)

    came = []
    with serving(behave) as served:
        for verdict in grader(served, timeout_s=30).grade(cases(20), TONE):
            came.append(verdict.case_id)
            if len(came) == 19:
                others_are_done.set()
    assert came[-1] == "3"
    assert len(served.asked) == 20


def test_a_slow_taker_holds_the_judge_back():
    """What is judged and not taken would be lost, paid for, if the taker were killed."""
    with serving(truly) as served:
        verdicts = grader(served, workers=3).grade(cases(40), TONE)
        next(verdicts)
        sleep(0.5)
        # 3 lie ready (the first one taken among them) and 3 are done and wait to be handed over
        assert len(served.asked) <= 6
        assert len(list(verdicts)) == 39


def test_the_pace_is_kept_in_every_stretch_of_time():
    """120 a minute are 2 a second: in any t seconds at most 2 + 2 t."""
    with serving(truly) as served:
        list(grader(served, requests_per_minute=120, workers=8).grade(cases(8), TONE))
    at = [asked.at for asked in served.asked]
    assert len(at) == 8
    for first, last in combinations(range(8), 2):
        # 2 more: on a busy machine one may arrive a second late, and so close to those after it
        assert last - first + 1 <= 4 + 2 * (at[last] - at[first])


def test_retries_keep_to_the_pace_too():
    with serving(lambda n, asked: refuse(500) if n < 4 else truly(n, asked)) as served:
        list(grader(served, requests_per_minute=240, workers=1).grade(cases(1), TONE))
    # 4 at once, as many as a second has; the fifth a quarter of a second after
    assert served.asked[4].at - served.asked[0].at > 0.2


@pytest.mark.parametrize("workers", [1, 4])
def test_a_budget_of_requests_ends_the_judging_with_all_verdicts_given(workers):
    with serving(truly) as served:
        verdicts, error = until_error(
            grader(served, max_requests=5, workers=workers).grade(cases(12), TONE)
        )
        assert isinstance(error, BudgetError)
        assert "5 requests is used up after 5 answers" in str(error)
        assert (len(verdicts), len(served.asked)) == (5, 5)
        had = {v.case_id for v in verdicts}
        verdicts += grader(served).grade([c for c in cases(12) if c.id not in had], TONE)
    assert Counter(v.case_id for v in verdicts) == {str(n): 1 for n in range(12)}
    assert len(served.asked) == 12


def test_retries_count_against_the_budget_of_requests():
    with serving(lambda *_: refuse(500)) as served:
        verdicts, error = until_error(
            grader(served, max_requests=3, attempts=9).grade(cases(5), TONE)
        )
    assert (verdicts, len(served.asked)) == ([], 3)
    assert isinstance(error, BudgetError)


def test_a_budget_that_just_suffices_ends_nothing():
    with serving(truly) as served:
        assert len(list(grader(served, max_requests=12).grade(cases(12), TONE))) == 12


@pytest.mark.parametrize("workers", [1, 6])
def test_a_budget_of_dollars_is_never_passed_however_many_are_in_flight(workers):
    """A dollar a token received: replies take 2 and may take 8. After 7 replies 14 of 20 dollars
    are gone, and one more could make it 22."""
    prices = {"usd_per_million_in": 0, "usd_per_million_out": 1e6, "max_reply_tokens": 8}
    with serving(lambda n, asked: say("warm", after_s=0.02)) as served:
        judge = grader(served, max_cost_usd=20, workers=workers, **prices)
        verdicts, error = until_error(judge.grade(cases(30), TONE))
    assert isinstance(error, BudgetError)
    assert "20 USD" in str(error)
    assert (len(verdicts), len(served.asked)) == (7, 7)
    assert judge.spending.cost_usd == 14


def test_a_budget_holds_over_several_gradings():
    with serving(truly) as served:
        judge = grader(served, max_requests=7)
        assert len(list(judge.grade(cases(5), TONE))) == 5
        verdicts, error = until_error(judge.grade(cases(5), TONE))
    assert len(verdicts) == 2
    assert isinstance(error, BudgetError)


def test_tokens_are_those_that_the_replies_count():
    with serving(lambda *_: say("warm", usage=(100, 7))) as served:
        judge = grader(served, usd_per_million_in=2, usd_per_million_out=10)
        list(judge.grade(cases(5), TONE))
    spending = judge.spending
    assert (spending.tokens.sent, spending.tokens.received) == (500, 35)
    assert spending.cost_usd == pytest.approx((500 * 2 + 35 * 10) / 1e6)
    assert spending.estimated == 0


def test_tokens_that_no_reply_counts_are_estimated_and_said_to_be():
    with serving(lambda *_: say("warm", usage=None)) as served:
        judge = grader(served)
        list(judge.grade(cases(3), TONE))
    assert judge.spending.estimated == 3
    assert judge.spending.tokens.received == 3  # "warm" is four bytes
    assert judge.spending.tokens.sent == judge.price(cases(3), TONE).tokens.sent


def test_a_lost_reply_may_have_cost_all_that_it_could():
    """A service bills what it made, whether or not it arrived."""
    with serving(lambda n, _: say("warm", after_s=30 if n == 0 else 0)) as served:
        judge = grader(served, timeout_s=2, max_reply_tokens=50)
        list(judge.grade(cases(1), TONE))
    assert judge.spending.tokens.received == 50 + 2


def test_an_unreadable_reply_is_asked_once_more_with_another_seed():
    def behave(number, asked):
        return say("I could not say.") if number == 0 else say("cold")

    with serving(behave) as served:
        judge = grader(served)
        (verdict,) = judge.grade(cases(1), TONE)
    assert (verdict.label, verdict.status) == ("cold", "ok")
    assert judge.repeated == ["0"]
    first, second = (asked.body for asked in served.asked)
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["messages"] != second["messages"]


def test_a_case_whose_second_reply_is_unreadable_too_is_unparsed():
    with serving(lambda *_: say("Warm or cold,\nwho knows?")) as served:
        (verdict,) = grader(served).grade(cases(1), TONE)
    assert (verdict.status, verdict.label, verdict.score) == ("unparsed", "", None)
    assert verdict.reason == "Warm or cold, who knows?"
    assert len(served.asked) == 2


def test_a_reply_that_was_cut_off_is_not_read():
    """`1` may be the beginning of `10`, and `warm` that of `warm is not the word`."""
    with serving(lambda *_: say("warm", finish="length")) as served:
        (verdict,) = grader(served).grade(cases(1), TONE)
    assert verdict.status == "unparsed"
    assert "cut off" in verdict.reason


def test_breaking_off_stops_asking_and_leaves_no_thread():
    with serving(lambda n, _: say("warm", after_s=0.02)) as served:
        for _ in grader(served).grade(cases(200), TONE):
            break
        assert not alive()
        sleep(0.1)  # what was sent a moment before arrives
        asked = len(served.asked)
        sleep(0.2)
        assert len(served.asked) == asked < 20


def test_ctrl_c_while_everything_hangs_ends_at_once():
    with serving(lambda *_: say("warm", after_s=30)) as served:
        timer = Timer(0.3, pthread_kill, (threading.main_thread().ident, SIGINT))
        timer.start()
        began = monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(grader(served, timeout_s=60).grade(cases(9), TONE))
        assert monotonic() - began < 20
        assert not alive()


def test_a_grading_that_nobody_takes_from_asks_nothing():
    with serving(truly) as served:
        grader(served).grade(cases(5), TONE)
        sleep(0.1)
    assert served.asked == []


def test_a_case_without_a_field_is_found_before_anything_is_asked():
    rubric = Rubric("role", 1, "Plays {role}?", low=0, high=3)
    whole = [Case(str(n), one.conversation, {"role": "bard"}) for n, one in enumerate(cases(3))]
    lacking = Case("7", whole[0].conversation)
    with serving(truly) as served, pytest.raises(UsageError, match="{role}, which case '7' lacks"):
        grader(served).grade([*whole, lacking], rubric)
    assert served.asked == []


def test_openai_itself_needs_a_key():
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        EndpointGrader("gpt").grade(cases(1), TONE)


def test_without_the_extra_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"needs openai.*keel-llm\[evaluate\]"):
        grader("http://host/v1").grade(cases(1), TONE)


def test_the_key_of_the_environment_is_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(truly) as served:
        judge = grader(served)
        list(judge.grade(cases(1), TONE))
    assert served.asked[0].key == "Bearer secret"
    assert "secret" not in judge.name


def test_the_address_may_come_from_the_environment(monkeypatch):
    with serving(truly) as served:
        monkeypatch.setenv("OPENAI_BASE_URL", served.address)
        assert len(list(EndpointGrader("m").grade(cases(2), TONE))) == 2


def test_the_name_tells_model_host_and_whatever_decides_the_verdicts():
    names = [
        EndpointGrader("m", "http://me:word@host:8000/v1").name,
        EndpointGrader("m", "http://host:8000/v1", seed=1).name,
        EndpointGrader("m", "http://host:8000/v1", limits=EndpointLimits(max_reply_tokens=9)).name,
        EndpointGrader("m").name,
    ]
    assert len(set(names)) == 4
    assert names[0].startswith("openai:m@host:8000-")
    assert names[3].startswith("openai:m@api.openai.com-")
    assert not any("word" in name for name in names)
    hasty = EndpointLimits(workers=99, timeout_s=1, max_requests=1)
    assert EndpointGrader("m", limits=hasty).name == names[3]


def test_an_address_without_a_host_is_an_error():
    with pytest.raises(UsageError, match="expected one such as"):
        EndpointGrader("m", "localhost:8000")


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"timeout_s": 0},
        {"requests_per_minute": 0},
        {"attempts": 0},
        {"first_wait_s": -1},
        {"max_requests": -1},
        {"max_cost_usd": 1},
        {"max_reply_tokens": 0},
    ],
)
def test_limits_that_make_no_sense_are_errors(wrong):
    with pytest.raises(UsageError):
        EndpointLimits(**wrong)


def test_a_price_counts_a_request_per_case_and_a_token_per_four_bytes():
    rubric = Rubric("short", 1, "Judge.", low=0, high=3)
    limits = EndpointLimits(usd_per_million_in=1, usd_per_million_out=100, max_reply_tokens=500)
    judge = EndpointGrader("m", "http://host/v1", limits=limits)
    price = judge.price(cases(8), rubric)
    assert price.requests == 8
    # {"score": "3"} has 14 bytes: 4 tokens
    assert (price.tokens.received, price.most_tokens.received) == (32, 4000)
    assert price.cost_usd == pytest.approx((price.tokens.sent + 32 * 100) / 1e6)
    assert price.most_cost_usd == pytest.approx((price.tokens.sent + 4000 * 100) / 1e6)
    longer = Conversation((Message("user", "hi"), Message("assistant", "x" * 4000)))
    more = judge.price([Case("0", longer)], rubric).tokens.sent
    one = judge.price(cases(1), rubric).tokens.sent
    # 4000 characters in place of `answer-0`, and `hi` in place of `hello`: 3989 bytes more
    assert more - one == pytest.approx(3989 / 4, abs=1)
    assert price.tokens.sent == 8 * one


def test_a_price_without_prices_has_no_dollars_and_needs_no_key():
    assert EndpointGrader("m").price(cases(1), TONE).cost_usd is None


def test_verdicts_come_while_others_are_being_judged():
    with serving(lambda n, _: say("warm", after_s=0.1)) as served:
        verdicts = grader(served, workers=2).grade(cases(9), TONE)
        asked = [len(served.asked) for _ in verdicts]
    assert asked[0] < 9
    assert len(asked) == 9
