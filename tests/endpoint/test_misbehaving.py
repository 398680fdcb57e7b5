"""Against a server that misbehaves nothing is lost, and nothing is counted twice."""

import json
import socket
from collections import Counter
from email.utils import formatdate
from itertools import pairwise
from time import time

import pytest

from keel.errors import EndpointError
from tests.endpoint.asking import TONE, cases, grader, label_of, truly, until_error
from tests.endpoint.server import Answer, refuse, say, serving


def first_time(fault: Answer):
    """Each case's first request meets the fault; its second is answered."""
    seen = Counter()

    def behave(number, asked):
        seen[asked.case] += 1
        return fault if seen[asked.case] == 1 else truly(number, asked)

    return behave


HTML = Answer(b"<html>Bad gateway</html>", content_type="text/html")
FAULTS = {
    "too many requests": refuse(429, "slow down"),
    "internal error": refuse(500),
    "overloaded": refuse(503),
    "a gateway's page": Answer(b"<html>", 502, "text/html"),
    "request timeout": refuse(408),
    "half an answer": say("warm", sent=40),
    "nothing at all": say("warm", sent=0),
    "hangs": say("warm", after_s=30),
    "drips": say("warm", drip_s=0.2),
    "wrong JSON": Answer(b'{"choices": [{"mess'),
    "a page of HTML with status 200": HTML,
    "no choices": Answer(b'{"choices": []}'),
    "choices that are none": Answer(b'{"choices": {"a": 1}}'),
    "an error with status 200": Answer(b'{"error": {"message": "upstream", "code": 502}}'),
    "a list": Answer(b"[]"),
    "no text": Answer(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_after_a_fault_each_case_is_asked_again_and_judged_once(fault):
    is_slow = bool(fault.after_s or fault.drip_s)
    with serving(first_time(fault)) as served:
        judge = grader(served, timeout_s=2 if is_slow else 30)
        verdicts = list(judge.grade(cases(4), TONE))
    assert sorted((v.case_id, v.label) for v in verdicts) == [(n, label_of(n)) for n in "0123"]
    assert Counter(asked.case for asked in served.asked) == dict.fromkeys("0123", 2)
    assert (judge.spending.requests, judge.spending.retries) == (8, 4)


RESTS = {
    "seconds": lambda: {"Retry-After": "0.8"},
    "date": lambda: {"Retry-After": formatdate(time() + 2, usegmt=True)},  # whole seconds: 1 to 2
    "milliseconds": lambda: {"Retry-After-Ms": "800"},
}


@pytest.mark.parametrize("rest", RESTS.values(), ids=RESTS)
def test_the_rest_that_an_endpoint_asks_for_is_kept_by_all_workers(rest):
    def behave(number, asked):
        return refuse(429, headers=rest()) if number == 4 else truly(number, asked)

    with serving(behave) as served:
        verdicts = list(grader(served).grade(cases(12), TONE))
    assert len({v.case_id for v in verdicts if v.status == "ok"}) == 12
    # Those in flight with the refused one may come a moment later; then all is still.
    gap = max(b.at - a.at for a, b in pairwise(served.asked))
    assert gap > 0.7


def test_without_a_rest_asked_for_the_waits_double():
    with serving(lambda n, asked: refuse(429) if n < 4 else truly(n, asked)) as served:
        judge = grader(served, workers=1, first_wait_s=0.1, longest_wait_s=10)
        assert [v.status for v in judge.grade(cases(1), TONE)] == ["ok"]
    # 0.1, 0.2, 0.4 and 0.8 s, up to 0.1 s of chance each, and what a busy machine adds
    gaps = [b.at - a.at for a, b in pairwise(served.asked)]
    assert all(gap >= wait for gap, wait in zip(gaps, (0.1, 0.2, 0.4, 0.8), strict=True))
    assert gaps[0] < gaps[3]


def test_a_case_that_always_fails_is_told_and_holds_up_nobody():
    def behave(number, asked):
        return refuse(500, "out of memory") if asked.case == "2" else truly(number, asked)

    with serving(behave) as served:
        verdicts = {v.case_id: v for v in grader(served, attempts=3).grade(cases(9), TONE)}
    assert [v.status for v in verdicts.values()].count("ok") == 8
    assert verdicts["2"].status == "failed"
    assert "out of memory" in verdicts["2"].reason
    assert Counter(asked.case for asked in served.asked)["2"] == 3


def test_a_case_that_is_too_long_fails_alone_and_is_not_asked_again():
    said = (
        "This model's maximum context length is 2048 tokens, your request has 9000 ('max_tokens')"
    )

    def behave(number, asked):
        return refuse(400, said) if asked.case == "0" else truly(number, asked)

    with serving(behave) as served:
        verdicts = {v.case_id: v for v in grader(served).grade(cases(5), TONE)}
    assert verdicts["0"].status == "failed"
    assert "maximum context length" in verdicts["0"].reason
    assert len(served.asked) == 5


FATAL = {
    "wrong key": (refuse(401, "bad key"), "bad key", 1),
    "no right": (refuse(403, "not yours"), "not yours", 1),
    "no such model": (refuse(404, "no such model"), "no such model", 1),
    "no money": (refuse(402, "pay first"), "pay first", 1),
    "quota": (refuse(429, "quota", code="insufficient_quota"), "quota", 1),
    # The second request is without the form of the reply, in case that was what is meant.
    "bad request": (refuse(400, "nonsense"), "nonsense", 2),
    "a long rest": (refuse(429, headers={"Retry-After": "3600"}), "3600 s of rest", 1),
}


@pytest.mark.parametrize(("fault", "said", "requests"), FATAL.values(), ids=FATAL)
def test_what_cannot_pass_is_said_at_once_whatever_the_number_of_workers(fault, said, requests):
    with serving(lambda *_: fault) as served:
        verdicts, error = until_error(grader(served, workers=8).grade(cases(20), TONE))
    assert verdicts == []
    assert isinstance(error, EndpointError)
    assert said in str(error)
    assert "\n" not in str(error)
    assert len(served.asked) == requests


def test_a_wrong_key_names_the_variable():
    with serving(lambda *_: refuse(401)) as served:
        _, error = until_error(grader(served).grade(cases(1), TONE))
    assert "OPENAI_API_KEY" in str(error)


def test_a_server_that_is_not_there_is_said_soon():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    judge = grader(address, workers=4, attempts=7)
    verdicts, error = until_error(judge.grade(cases(20), TONE))
    assert verdicts == []
    assert isinstance(error, EndpointError)
    assert "connection failed" in str(error)
    assert judge.spending.requests <= 4 * 3  # not 7 by each worker


def test_an_address_without_its_path_is_guessed_at():
    with serving(lambda *_: HTML) as served:
        verdicts, error = until_error(grader(served).grade(cases(20), TONE))
    assert verdicts == []
    assert "/v1" in str(error)


def test_cases_of_an_endpoint_that_goes_down_stay_unasked_and_are_judged_on_the_next_run():
    """Told as failed they would be lost to a run that goes on where the last one ended."""

    def failing(number, asked):
        return truly(number, asked) if number < 7 else refuse(503)

    with serving(failing) as served:
        verdicts, error = until_error(grader(served, attempts=2).grade(cases(40), TONE))
    assert isinstance(error, EndpointError)
    assert {v.status for v in verdicts} == {"ok"}
    assert len(verdicts) == 7
    had = {v.case_id for v in verdicts}
    missing = [one for one in cases(40) if one.id not in had]
    with serving(truly) as second:
        verdicts += grader(second).grade(missing, TONE)
    assert Counter(v.case_id for v in verdicts) == {str(n): 1 for n in range(40)}
    assert not had & {asked.case for asked in second.asked}


def test_an_answer_that_was_under_way_before_a_failure_does_not_show_that_the_endpoint_is_up():
    """The last answer came late, and the cases that had failed meanwhile were lost."""

    def failing(number, asked):
        late = say(label_of(asked.case), after_s=0.5)
        return late if number == 6 else truly(number, asked) if number < 7 else refuse(503)

    with serving(failing) as served:
        verdicts, error = until_error(grader(served, attempts=2).grade(cases(40), TONE))
    assert isinstance(error, EndpointError)
    assert Counter(v.status for v in verdicts) == {"ok": 7}


def test_an_answer_after_a_failure_shows_that_the_endpoint_is_up():
    """Every third case fails for good: more than there are workers, but never in a row."""

    def behave(number, asked):
        return refuse(500) if int(asked.case) % 3 == 0 else truly(number, asked)

    with serving(behave) as served:
        verdicts = list(grader(served, attempts=1, workers=1).grade(cases(30), TONE))
    assert Counter(v.status for v in verdicts) == {"ok": 20, "failed": 10}


REFUSALS = {
    "form": ("response_format", refuse(400, "response_format is not supported")),
    "form, by pydantic": ("response_format", refuse(422, "json_schema: extra inputs")),
    "form, unnamed": ("response_format", refuse(400, "bad request")),
    "older limit": (
        "max_tokens",
        refuse(400, "'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
    ),
    "temperature": ("temperature", refuse(400, "only the default", param="temperature")),
    "seed": ("seed", refuse(400, "Unknown field: seed")),
}


@pytest.mark.parametrize(("field", "refusal"), REFUSALS.values(), ids=REFUSALS)
def test_a_field_that_is_refused_is_left_out_from_then_on(field, refusal):
    def behave(number, asked):
        return refusal if field in asked.body else truly(number, asked)

    with serving(behave) as served:
        judge = grader(served, workers=6)
        verdicts = [*judge.grade(cases(12), TONE), *judge.grade(cases(12), TONE)]
    assert [v.status for v in verdicts] == ["ok"] * 24
    assert len(served.asked) == 25  # it was told so once
    others = {"response_format", "temperature", "seed"} - {field}
    assert all(others <= set(asked.body) for asked in served.asked)
    assert all({"max_tokens", "max_completion_tokens"} & set(one.body) for one in served.asked)


def test_several_fields_may_be_refused_one_after_the_other():
    def behave(number, asked):
        for field in ("response_format", "max_tokens", "temperature", "seed"):
            if field in asked.body:
                return refuse(400, f"{field} is unknown")
        return truly(number, asked)

    with serving(behave) as served:
        assert [v.status for v in grader(served).grade(cases(5), TONE)] == ["ok"] * 5
    assert len(served.asked) == 4 + 5


def test_a_limit_of_tokens_that_is_too_large_is_no_refusal_of_the_field():
    """Without the field nothing would bound what a reply costs."""
    with serving(lambda *_: refuse(400, "max_tokens is too large: 1024")) as served:
        _, error = until_error(grader(served).grade(cases(5), TONE))
    assert "too large" in str(error)
    assert len(served.asked) == 1


def test_the_form_that_is_asked_for_is_a_schema_of_the_labels():
    with serving(lambda *_: say(json.dumps({"label": "warm"}))) as served:
        (verdict,) = grader(served).grade(cases(1), TONE)
    schema = served.asked[0].body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["label"]["enum"] == ["warm", "cold"]
    assert (verdict.label, verdict.score) == ("warm", 1.0)
