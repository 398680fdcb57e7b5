"""A real model of Keel's behind a real OpenAI-compatible server judges: real replies go through."""

from threading import Lock

import pytest

import keel
from keel.engines import Engine
from keel.engines.transformers import TransformersEngine
from keel.testing import tiny_model, tiny_tokenizer
from keel.types import Case, Conversation, Message, Prompt, Rubric, RubricLabel, Sampling
from tests.endpoint.asking import grader
from tests.endpoint.server import refuse, say, serving

MOOD = Rubric(
    "mood",
    1,
    "Is the answer happy or sad?",
    labels=(
        RubricLabel("happy", "The speaker is glad.", 1.0),
        RubricLabel("sad", "The speaker is unhappy.", 0.0),
    ),
)
ANSWERS = {
    "0": "I am so happy today! Everything is wonderful.",
    "1": "I am sad. I cried all day and nothing helps.",
    "2": "What a glorious morning, I could sing!",
    "3": "My heart is broken and I am alone.",
}


def answering(engine: Engine, max_new_tokens: int):
    """The engine as a server that knows no form of reply."""
    lock = Lock()

    def behave(number, asked):
        if "response_format" in asked.body:
            return refuse(400, "response_format is not supported")
        said = [Message(m["role"], m["content"]) for m in asked.body["messages"]]
        tokens = min(max_new_tokens, asked.body["max_tokens"])
        sampling = Sampling(tokens, temperature=asked.body["temperature"])
        prompt = Prompt(str(number), Conversation(tuple(said)))
        with lock:
            (reply,) = engine.generate([prompt], sampling, seed=asked.body["seed"])
        return say(reply.text, usage=(100, len(reply.token_ids)), finish=reply.finish)

    return behave


def judged(engine: Engine, max_new_tokens: int):
    cases = [
        Case(id, Conversation((Message("user", "How are you?"), Message("assistant", answer))))
        for id, answer in ANSWERS.items()
    ]
    with serving(answering(engine, max_new_tokens)) as served:
        judge = grader(served, workers=2, timeout_s=120)
        return {v.case_id: v for v in judge.grade(cases, MOOD)}, judge, served


def test_what_a_model_without_sense_says_is_kept_and_not_taken_for_a_label():
    engine = TransformersEngine(tiny_model("llama"), tiny_tokenizer())
    verdicts, judge, served = judged(engine, 6)
    assert {v.status for v in verdicts.values()} == {"unparsed"}
    assert set(verdicts) == set(ANSWERS)
    # one request to learn that there is no form of reply, then two for each of four cases
    assert len(served.asked) == judge.spending.requests == 9
    assert judge.spending.tokens.received > 0


@pytest.mark.real
def test_a_small_real_model_judges_every_case_and_counts_its_tokens():
    """SmolLM2 with 135M parameters is no good judge; that its labels come through is the claim."""
    verdicts, judge, _ = judged(keel.open_engine("smollm2"), 24)
    assert set(verdicts) == set(ANSWERS)
    assert {v.label for v in verdicts.values() if v.status == "ok"} <= {"happy", "sad"}
    assert any(v.status == "ok" for v in verdicts.values())
    assert all(v.reason for v in verdicts.values())
    assert judge.spending.tokens.sent == 100 * (judge.spending.requests - 1)
