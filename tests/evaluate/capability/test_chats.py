"""lm-eval's tasks put as chats: to a real server, to an engine; lm-eval's own scores."""

from __future__ import annotations

import re

import pytest

from keel.errors import UsageError
from keel.evaluate import Arm, ServedAnswerer, parse_arms, served_arms
from keel.evaluate.capability import ChatTaskAnswerer, task_answerer
from keel.testing import FakeEngine
from keel.types import Floor
from tests.evaluate.capability.small import arm_answers, batches, opened, scored
from tests.evaluate.serving import Served, serving

pytest.importorskip("openai")


def right_below(count):
    """Adds as it should where the first number is below `count`; then begins to ask itself."""

    def says(asked: str) -> str:
        first, second = map(int, re.findall(r"(\d+) (?:pears|more)", asked)[-2:])
        answer = first + second + (first >= count)
        return f"That makes #### {answer}\nQuestion: and #### 9?"

    return says


def answered(served: Served, task, arm="none", arms="none"):
    known = served_arms(parse_arms(arms))
    answerer = ChatTaskAnswerer(task, ServedAnswerer("m", served.address, known.settings))
    (wanted,) = [one for one in known.arms if one.name == arm]
    return arm_answers(task, answerer, wanted).answers


def on_engine(engine, task, arm=Arm("none")):
    """Answers by item, and what was moved in each batch."""
    found = batches(task, task_answerer(task, engine), arm)
    return {a.item_id: a for b in found for a in b.answers}, [b.firing for b in found]


def test_lm_eval_scores_what_the_server_answered(files):
    task = opened(files, "gsm8k")
    with serving(Served(says=right_below(3))) as served:
        answers = answered(served, task)
    scores = [verdict.score for verdict in scored(task, answers)]
    assert scores == [1, 1, 1, 0, 0, 0, 0]  # 0, 1 and 2 pears to begin with are added rightly


def test_answers_end_at_the_tasks_stop_words_as_in_lm_eval(files):
    with serving(Served(says=right_below(9))) as served:
        answers = answered(served, opened(files, "gsm8k"))
    assert "Question:" in served.asked[0]["stop"]
    assert len(served.asked[0]["stop"]) <= 4  # OpenAI refuses more
    assert {answer.text for answer in answers} == {
        f"That makes #### {2 * n + 1}\n" for n in range(7)
    }


def test_tasks_are_asked_greedily_in_chat_with_the_arms_words(files):
    with serving(Served(says=right_below(9))) as served:
        answered(served, opened(files, "gsm8k"), "prompt", "none,prompt")
    assert {body["temperature"] for body in served.asked} == {0.0}
    assert {body["max_tokens"] for body in served.asked} == {12}
    assert {m["role"] for body in served.asked for m in body["messages"]} == {"system", "user"}


@pytest.mark.parametrize("arm", ["prompt", "reprompt"])
def test_the_arms_words_are_said_once_where_they_belong(files, arm):
    """Whoever asks puts them in; the messages as they are written do not have them yet."""
    with serving(Served(says=right_below(9))) as served:
        answered(served, opened(files, "gsm8k"), "none")
        answered(served, opened(files, "gsm8k"), arm, f"none,{arm}")
    plain, changed = served.asked[:7], served.asked[7:]
    (wanted,) = (one for one in served_arms(parse_arms(f"none,{arm}")).arms if one.name == arm)
    words = wanted.instruction.text
    users = {body["messages"][-1]["content"] for body in plain}
    for body in changed:
        told = "\n".join(message["content"] for message in body["messages"])
        assert told.count(words) == (2 if wanted.instruction.is_repeated else 1)
        assert any(body["messages"][-1]["content"].endswith(one) for one in users)


def test_no_more_stop_words_are_sent_than_openai_takes(files):
    task = opened(files, "gsm8k")
    for leaf in task._leaves.values():
        leaf.set_config("generation_kwargs", {"until": list("abcdef")}, update=True)
    with serving(Served(says=lambda _: "#### 1 f and more")) as served:
        answers = answered(served, task)
    assert {len(body["stop"]) for body in served.asked} == {4}
    assert {answer.text for answer in answers} == {"#### 1 "}  # cut at all six


def test_a_setting_is_asked_for_by_name(files):
    with serving(Served(settings={"mine"}, says=lambda _: "#### 1")) as served:
        answered(served, opened(files, "gsm8k"), "capped:mine", "none,capped:mine")
    told = [body["vllm_xargs"]["keel"] for body in served.asked]
    assert told.count("mine") == 7


def test_answers_given_without_asking_for_a_setting_are_not_taken_for_unsteered_ones():
    alone, beside = (served_arms(parse_arms(arms)) for arms in ("none", "none,capped:mine"))
    prints = {
        ServedAnswerer("m", "http://h/v1", one.settings).fingerprint(one.arms[0])
        for one in (alone, beside)
    }
    assert len(prints) == 2


def test_an_answer_that_the_limit_ended_is_told_from_one_that_the_model_ended(files):
    """The server says that the limit did."""
    with serving(Served(says=right_below(9))) as served:
        answers = answered(served, opened(files, "gsm8k"))
    assert {(answer.tokens, answer.finish) for answer in answers} == {(4, "length")}


def test_a_task_that_scores_texts_is_refused(files):
    with serving(Served()) as served, pytest.raises(UsageError, match="only writes them"):
        answered(served, opened(files, "mild_choices"))
    assert not served.asked


def test_bare_text_is_refused(files):
    with serving(Served()) as served, pytest.raises(UsageError, match="leave out --no-chat"):
        answered(served, opened(files, "gsm8k", is_chat=False))


def test_a_server_gets_the_tasks_seed_and_each_item_its_own(files):
    """Seven items in one batch: the task's seed is 5, and the third item's 7."""
    with serving(Served(says=right_below(9))) as served:
        answered(served, opened(files, "gsm8k", seed=5))
    assert sorted(body["seed"] for body in served.asked) == list(range(5, 12))


def _adding(conversation, _persona, _chance):
    return right_below(3)(conversation.messages[-1].content)


@pytest.mark.parametrize("batches_continuously", [False, True])
def test_an_engine_that_is_not_transformers_answers_tasks_as_chats(files, batches_continuously):
    task = opened(files, "gsm8k", max_new_tokens=30)
    answers, _ = on_engine(
        FakeEngine(reply=_adding, batches_continuously=batches_continuously), task
    )
    by_item = [answers[item.id] for item in task.items()]
    assert [verdict.score for verdict in scored(task, by_item)] == [1, 1, 1, 0, 0, 0, 0]
    assert not any("Question:" in answer.text for answer in answers.values())


def test_what_a_floor_moved_is_told_of_every_batch(files):
    """So that an arm whose floors never bit is not taken for a capped one."""
    engine = FakeEngine(reply=_adding)
    held = Arm("capped", (Floor(1, engine.axis.direction[1], 1e3),))
    _, plain = on_engine(engine, opened(files, "gsm8k"))
    _, moved = on_engine(engine, opened(files, "gsm8k"), held)
    assert plain == [None] * len(plain)
    assert all(firing.fired[1] == firing.slots[1] > 0 for firing in moved)
