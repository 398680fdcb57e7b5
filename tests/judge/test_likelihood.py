"""The likelihood judge measures what a role prompt does for the words of an answer."""

import pytest
import torch

from keel.engines import Recording
from keel.engines.transformers import TransformersEngine
from keel.judge import LikelihoodJudge, summarise
from keel.testing import FakeEngine, tiny_model, tiny_tokenizer
from keel.types import Conversation, Judgement, Message, Prompt, Rollout


def rollout(role: str, system: str | None, tokens=(40, 41, 42), n=0) -> Rollout:
    messages = (*([Message("system", system)] if system else []), Message("user", "hello"))
    prompt = Prompt(f"{role}/p0/q{n}", Conversation(messages), role)
    return Rollout(prompt, "x", tuple(tokens), "stop")


def test_the_score_is_the_gain_in_log_likelihood_per_token():
    """Worked out again from whole forward passes under both contexts."""
    engine = TransformersEngine(tiny_model("llama"), tiny_tokenizer())
    one = rollout("ghost", "you are a ghost")
    (judgement,) = LikelihoodJudge(engine).judge([one])
    means = []
    for conversation in (one.prompt.conversation, one.prompt.conversation.without_system()):
        head = engine.template.prompt_ids(conversation)
        with torch.no_grad():
            logits = engine.model(torch.tensor([[*head, *one.token_ids]])).logits[0]
        scores = torch.log_softmax(logits, -1)
        places = range(len(head) - 1, len(head) + 2)
        means.append(sum(float(scores[p, t]) for p, t in zip(places, one.token_ids, strict=True)))
    assert judgement.score == pytest.approx((means[0] - means[1]) / 3, abs=1e-4)


def test_each_answer_gets_its_own_score_whatever_order_they_are_read_in():
    engine = TransformersEngine(tiny_model("llama"), tiny_tokenizer())
    lengths = (2, 9, 4)  # read longest first
    many = [rollout("ghost", "you are a ghost", range(40, 40 + n), n=n) for n in lengths]
    judge = LikelihoodJudge(engine)
    alone = {j.rollout_id: j.score for one in many for j in judge.judge([one])}
    together = {j.rollout_id: j.score for j in judge.judge(many)}
    assert together == pytest.approx(alone, abs=1e-4)
    assert len({round(score, 3) for score in alone.values()}) == 3


def test_of_a_long_conversation_the_last_answer_is_judged():
    """Earlier turns belong to the prompt: what the role does for them is no part of the score."""
    engine = TransformersEngine(tiny_model("llama"), tiny_tokenizer())
    one = rollout("ghost", "you are a ghost")
    longer = one.prompt.conversation.with_reply("good day to you").with_user("who are you")
    asked = Rollout(Prompt("ghost/p0/q1", longer, "ghost"), "x", one.token_ids, "stop")
    (judgement,) = LikelihoodJudge(engine).judge([asked])
    given = [asked.conversation, asked.conversation.without_system()]
    readings = engine.read(given, recording=Recording(log_likelihood=True))
    by_place = {r.index: float(r.turns[1].log_likelihood_T.mean()) for r in readings}
    assert judgement.score == pytest.approx(by_place[0] - by_place[1], abs=1e-5)


def test_judges_of_different_thresholds_have_different_names():
    """A run keeps what each judge said under its name."""
    names = {LikelihoodJudge(FakeEngine(), threshold).name for threshold in (0.05, 0.1)}
    assert names == {"likelihood-0.05", "likelihood-0.1"}


@pytest.mark.parametrize(("threshold", "label"), [(-0.01, "fully"), (0.0, "fully"), (0.01, "none")])
def test_the_threshold_decides_the_label(threshold, label):
    # A fake engine finds every token equally likely everywhere: a gain of exactly 0.
    (judgement,) = LikelihoodJudge(FakeEngine(), threshold).judge([rollout("ghost", "boo")])
    assert (judgement.score, judgement.label) == (0.0, label)


def test_the_default_is_not_judged():
    (judgement,) = LikelihoodJudge(FakeEngine()).judge([rollout("default", None)])
    assert (judgement.label, judgement.score) == ("unjudged", None)


def test_an_empty_answer_is_counted_as_unparsed_and_given_no_score():
    (judgement,) = LikelihoodJudge(FakeEngine()).judge([rollout("ghost", "boo", tokens=())])
    assert (judgement.status, judgement.score, judgement.label) == ("unparsed", None, "none")


def test_every_rollout_gets_one_judgement():
    many = [rollout("ghost", "boo", n=n) for n in range(5)] + [rollout("default", None, n=9)]
    found = list(LikelihoodJudge(FakeEngine()).judge(many))
    assert sorted(j.rollout_id for j in found) == sorted(r.prompt.id for r in many)


def test_a_summary_counts_labels_and_cuts_scores_into_tenths():
    judged = [Judgement(str(n), "fully", float(n)) for n in range(11)]
    summary = summarise([*judged, Judgement("x", "none", status="unparsed")])
    assert summary.labels == {"fully": 11, "none": 1}
    assert summary.statuses == {"ok": 11, "unparsed": 1}
    assert summary.deciles == tuple(float(n) for n in range(11))


def test_a_summary_of_nothing_scored_has_no_deciles():
    assert summarise([Judgement("x", "unjudged")]).deciles == ()
