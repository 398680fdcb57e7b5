"""Items answered by a served model: a real server on this machine, that understands or does not."""

from __future__ import annotations

from typing import Any

import pytest

from keel.errors import EndpointError, NotAppliedError, UsageError
from keel.evaluate import ServedAnswerer, parse_arms, served_arms
from keel.types import Conversation, Message, Sampling
from tests.endpoint.server import refuse
from tests.endpoint.server import serving as answering
from tests.evaluate.serving import Served, serving

pytest.importorskip("openai")

SAMPLING = Sampling(max_new_tokens=5)
TALKS = [Conversation((Message("user", f"say {n}"),)) for n in range(20)]


def answer(served: Served, arm: str, arms: str, **more: Any):
    known = served_arms(parse_arms(arms))
    answerer = ServedAnswerer("m", served.address, known.settings, **more)
    (wanted,) = [one for one in known.arms if one.name == arm]
    return answerer.answer(TALKS[:3], wanted, SAMPLING, seed=2**50 + 3)


def test_answers_stand_at_their_places_with_length_and_end():
    with serving(Served()) as served:
        found = answer(served, "none", "none")
    assert [reply.text for reply in found.answers] == [f"you said say {n}" for n in range(3)]
    assert {(reply.tokens, reply.finish) for reply in found.answers} == {(4, "length")}
    assert found.firing is None


def test_alone_the_unsteered_arm_speaks_plain_openai():
    """Other servers refuse what they do not know."""
    with serving(Served()) as served:
        answer(served, "none", "none")
    assert all("vllm_xargs" not in body for body in served.asked)
    assert {body["max_tokens"] for body in served.asked} == {5}


def test_beside_a_setting_the_unsteered_arm_asks_for_none():
    with serving(Served(settings={"mine"})) as served:
        answer(served, "none", "none,capped:mine")
        answer(served, "capped:mine", "none,capped:mine")
    told = [body["vllm_xargs"]["keel"] for body in served.asked]
    assert (told.count("none"), told.count("mine")) == (3, 3)


def test_the_same_seeds_are_sent_under_every_arm():
    with serving(Served(settings={"mine"})) as served:
        for arm in ("none", "capped:mine"):
            answer(served, arm, "none,capped:mine")
    seeds = [
        sorted(body["seed"] for body in served.asked if body["vllm_xargs"]["keel"] == setting)
        for setting in ("none", "mine")
    ]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 3


def test_a_server_that_takes_no_notice_of_settings_is_not_believed():
    with serving(Served()) as served, pytest.raises(NotAppliedError, match="takes no notice"):
        answer(served, "capped:mine", "none,capped:mine")


def test_a_server_too_busy_to_say_whether_it_knows_settings_is_not_believed_either():
    """It refuses the question for now, and would answer all others uncapped under the cap's
    name."""
    with serving(Served(refusals=1)) as served, pytest.raises(EndpointError, match="429"):
        answer(served, "capped:mine", "none,capped:mine", retries=0)


def test_a_setting_that_the_server_lacks_is_said_to_be_refused():
    with serving(Served(settings={"other"})) as served, pytest.raises(EndpointError):
        answer(served, "capped:mine", "none,capped:mine")


def test_a_server_that_is_busy_is_asked_again():
    with serving(Served(refusals=3)) as served:
        found = answer(served, "none", "none")
    assert len(found.answers) == 3
    assert len(served.asked) == 6


def test_a_server_that_is_not_there_is_named():
    served = Served(address="http://127.0.0.1:9/v1")
    with pytest.raises(EndpointError, match=r"'m' at http://127.0.0.1:9/v1 did not answer"):
        answer(served, "none", "none", retries=0)


def test_words_are_arms_of_a_served_model_and_directions_are_not():
    with serving(Served()) as served:
        answer(served, "prompt", "none,prompt")
    assert any(body["messages"][0]["role"] == "system" for body in served.asked)
    with pytest.raises(UsageError, match="random reach into a model"):
        served_arms(parse_arms("none,random"))


def test_the_assistants_own_words_are_gone_on_with():
    start = Conversation((Message("user", "Go."), Message("assistant", "I exist to")))
    with serving(Served()) as served:
        known = served_arms(parse_arms("none"))
        ServedAnswerer("m", served.address).answer([start], known.arms[0], SAMPLING, seed=0)
    assert served.asked[0]["continue_final_message"] is True


def test_an_arm_under_another_setting_is_another_arm():
    """So that answers given without asking for a setting are not taken for unsteered ones."""
    alone, beside = (served_arms(parse_arms(arms)) for arms in ("none", "none,capped:mine"))
    prints = [
        ServedAnswerer("m", "http://h/v1", one.settings).fingerprint(one.arms[0])
        for one in (alone, beside)
    ]
    assert prints[0] != prints[1]
    assert alone.warnings
    assert not beside.warnings


def test_a_model_of_the_same_name_at_another_address_is_another_model():
    one, other = (ServedAnswerer("m", f"http://{host}/v1").identity for host in ("a:1", "a:2"))
    assert one != other


def test_answers_are_sampled_as_the_suite_says():
    sampling = Sampling(max_new_tokens=7, temperature=0.25, top_p=0.5)
    with serving(Served()) as served:
        known = served_arms(parse_arms("none"))
        ServedAnswerer("m", served.address).answer(TALKS[:1], known.arms[0], sampling, seed=0)
    (body,) = served.asked
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (7, 0.25, 0.5)


def test_what_is_no_address_is_refused():
    with pytest.raises(UsageError, match="expected one such as"):
        ServedAnswerer("m", "localhost")


def test_a_field_that_pairs_the_arms_is_not_left_out_when_it_is_refused():
    """Answers without the seed would be other draws under each arm."""
    with (
        answering(lambda *_: refuse(400, "Unknown field: seed")) as server,
        pytest.raises(EndpointError, match="Unknown field: seed"),
    ):
        (arm,) = served_arms(parse_arms("none")).arms
        ServedAnswerer("m", server.address).answer(TALKS[:3], arm, SAMPLING, seed=0)
    assert len(server.asked) == 1
