"""Held by an arm, the model answers otherwise, or exactly as before where nothing is to be held."""

from __future__ import annotations

import pytest
import torch
from lm_eval.api.instance import Instance

from keel.errors import NotAppliedError, UsageError
from keel.evaluate import Arm, Instruction, plan_answers
from keel.evaluate.capability import LocalTaskAnswerer, task_evaluation
from keel.evaluate.capability.model import SteeredLM
from keel.types import Floor
from tests.evaluate.capability.small import (
    CAPPED,
    DIRECTION,
    PLAIN,
    UNREACHED,
    answered,
    opened,
    planned,
    requests,
    texts,
)


@pytest.mark.parametrize("task", ["gsm8k", "mild_choices"])
def test_a_cap_changes_answers(engine, files, task):
    asked = opened(files, task)
    assert texts(answered(engine, asked, CAPPED)) != texts(answered(engine, asked, PLAIN))


@pytest.mark.parametrize("task", ["gsm8k", "mild_choices"])
def test_a_floor_that_nobody_is_under_changes_nothing_bit_for_bit(engine, files, task):
    asked = opened(files, task)
    held = answered(engine, asked, UNREACHED)
    assert texts(held) == texts(answered(engine, asked, PLAIN))
    assert held.firing is not None
    assert held.firing.rate == 0


def test_after_an_arm_the_model_is_itself_again(engine, files):
    asked = opened(files, "gsm8k")
    before = texts(answered(engine, asked, PLAIN))
    answered(engine, asked, CAPPED)
    assert texts(answered(engine, asked, PLAIN)) == before
    assert not engine.model._forward_pre_hooks


def test_padding_of_texts_to_be_scored_is_not_counted(engine, files):
    """All five items in one batch or each alone: the same tokens could have been moved. The last
    token of a choice is scored, not read, so a choice of one token adds none to its question."""
    counts = []
    for size in (1, 5):
        held = answered(engine, opened(files, "mild_choices", batch_size=size), CAPPED)
        assert held.firing is not None
        counts.append(held.firing)
    assert counts[0].slots == counts[1].slots
    assert counts[0].fired == counts[1].fired


def test_rows_that_have_ended_are_not_counted(engine, files):
    """Rows of a batch that have ended go on as padding until the last one has."""
    ends = engine.model.generation_config.eos_token_id
    engine.model.generation_config.eos_token_id = [2, *range(3, 320, 12)]
    try:
        one = answered(engine, opened(files, "gsm8k", batch_size=1), CAPPED)
        all_at_once = answered(engine, opened(files, "gsm8k", batch_size=7), CAPPED)
    finally:
        engine.model.generation_config.eos_token_id = ends
    assert texts(one) == texts(all_at_once)
    assert len({answer.tokens for answer in one.answers}) > 1
    assert one.firing is not None
    assert all_at_once.firing is not None
    # Alone, a row's end token is never fed; in a batch it is, once, by whatever number it has.
    extra = all_at_once.firing.slots[1] - one.firing.slots[1]
    assert 0 <= extra <= len(one.answers) - 1


def test_an_arm_for_generated_tokens_only_is_refused_where_nothing_is_generated(engine, files):
    arm = Arm("late", (Floor(1, DIRECTION, 4.0, "generated"),))
    with pytest.raises(UsageError, match="'late' acts on generated tokens only"):
        answered(engine, opened(files, "mild_choices"), arm)


def test_likelihoods_of_whole_texts_are_held_too(engine):
    """Perplexity tasks ask in this way; unheld, the cap would cost them nothing."""
    asked = [Instance("loglikelihood_rolling", {}, ("The sea is wide and the lamp is lit.",), 0)]
    plain, capped = (SteeredLM(engine, arm, batch_size=1) for arm in (PLAIN, CAPPED))
    assert plain.loglikelihood_rolling(asked) != capped.loglikelihood_rolling(asked)
    assert plain.firing is None
    assert capped.firing is not None
    late = Arm("late", (Floor(1, DIRECTION, 4.0, "generated"),))
    with pytest.raises(UsageError, match="'late' acts on generated tokens only"):
        SteeredLM(engine, late, batch_size=1).loglikelihood_rolling(asked)


def test_interventions_that_no_token_passed_are_an_error(engine):
    lm = SteeredLM(engine, CAPPED, batch_size=1)
    with pytest.raises(NotAppliedError, match="saw no token"):
        lm.generate_until([])


def test_a_call_that_failed_leaves_no_firing_of_the_call_before(engine):
    lm = SteeredLM(engine, CAPPED, batch_size=1)
    lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("The sea is wide.",), 0)])
    assert lm.firing is not None
    with pytest.raises(NotAppliedError):
        lm.generate_until([])
    assert lm.firing is None


def test_lengths_are_those_that_the_model_sampled(engine, files):
    found = answered(engine, opened(files, "gsm8k", max_new_tokens=5))
    assert {(a.tokens, a.finish) for a in found.answers} == {(5, "length")}


def test_an_arms_words_are_put_into_the_chat_once(engine, files):
    arm = Arm("reprompt", instruction=Instruction("Be brief.", is_repeated=True))
    (first, *_) = requests(opened(files, "gsm8k"), engine, arm)
    asked = first.instances[0].args[0]
    system, user = "<|im_start|>system\nBe brief.<|im_end|>", "<|im_start|>user\nBe brief.\n\nQue"
    assert asked.startswith(f"{system}\n{user}")
    assert asked.count("Be brief.") == 2


def test_without_a_chat_template_an_arms_words_come_first(engine, files):
    task = opened(files, "gsm8k", is_chat=False)
    arm = Arm("prompt", instruction=Instruction("Be brief."))
    asked = requests(task, engine, arm)[0].instances[0].args[0]
    assert asked.startswith("Be brief.")
    assert "<|im_start|>" not in asked
    repeated = Arm("reprompt", instruction=Instruction("Be brief.", is_repeated=True))
    with pytest.raises(UsageError, match="'reprompt' puts words before each user turn"):
        requests(task, engine, repeated)


def test_the_longest_items_are_answered_first(engine, files):
    """As lm-eval orders them: what does not fit shows at once."""
    task = opened(files, "ifeval", batch_size=2)
    prompts = [one.instances[0].args[0] for one in requests(task, engine)]
    lengths = [len(engine.tokenizer.encode(prompt)) for prompt in prompts]
    ordered = [lengths[index] for batch in planned(task, engine) for index in batch]
    assert ordered == sorted(lengths, reverse=True)
    assert len(set(lengths)) == 3


def test_what_is_generated_otherwise_is_answered_in_a_batch_of_its_own(engine, files):
    """lm-eval runs a batch with the arguments of its first: all would be as short as that one."""
    task = opened(files, "ifeval")
    answerer = LocalTaskAnswerer(task, engine)
    made = answerer.requests(PLAIN)
    made["ifeval/1"] = made["ifeval/1"].cut(3)
    suite = task.suite()
    batches = plan_answers(answerer, suite.items, suite.sampling).batches
    assert sorted(sorted(indices) for indices in batches) == [[0, 2], [1]]


def test_prompts_that_the_context_cannot_hold_beside_an_answer_are_told(engine, files, monkeypatch):
    """12 tokens are left for an answer: beside the longest prompt, or one too few."""
    answerer = LocalTaskAnswerer(opened(files, "ifeval"), engine)
    prompts = [one.instances[0].args[0] for one in answerer.requests(PLAIN).values()]
    longest = max(len(engine.tokenizer.encode(prompt)) for prompt in prompts)
    for context, said in ((longest + 12, []), (longest + 11, ["1 of 3 prompts are too long"])):
        monkeypatch.setattr(engine.model.config, "max_position_embeddings", context)
        assert [one[:27] for one in answerer.warnings] == [one[:27] for one in said]


def test_answers_as_long_as_the_context_leave_no_room_for_a_question(engine, files, monkeypatch):
    task = opened(files, "ifeval")
    monkeypatch.setattr(engine.model.config, "max_position_embeddings", 12)
    with pytest.raises(UsageError, match="up to 12 tokens, and the model's context holds 12"):
        task_evaluation(task, LocalTaskAnswerer(task, engine), (PLAIN,))


def test_the_engines_tokenizer_stays_as_it_was(engine):
    pad, side = engine.tokenizer.pad_token_id, engine.tokenizer.padding_side
    SteeredLM(engine, PLAIN, batch_size=1).tokenizer.pad_token_id = 7
    assert (engine.tokenizer.pad_token_id, engine.tokenizer.padding_side) == (pad, side)


def test_the_random_state_of_others_is_left_alone(engine, files):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    answered(engine, opened(files, "gsm8k", limit=1))
    assert torch.equal(torch.rand(1), expected)
