"""Prompts that go on from those of the batch before are computed from there on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch

from keel.engines import Completion, KeepsPrompts, Probe, Recording
from keel.engines.transformers import TransformersEngine
from keel.types import Floor, Prompt
from tests.engines.small import SAMPLING, V, engine, prompts

RECORDING = Recording(means=True, prompt=True, probes=(Probe(1, V),))
FLOORS = (Floor(0, V, 0.5), Floor(1, V, 0.5, "not_first"))


def talk(
    made: TransformersEngine,
    turns: int = 3,
    *,
    floors: Sequence[Floor] = (),
    keeps: bool = True,
    kept: Sequence[Sequence[Completion]] = (),
) -> list[list[Completion]]:
    """Answers to all prompts turn by turn; `kept` are turns that were answered before."""
    asked, done = prompts(), []
    with made.keeping_prompts() if keeps else nullcontext():
        for turn in range(turns):
            if turn < len(kept):
                made.prime(asked, floors)
                answers = list(kept[turn])
            else:
                seeds = [100 * turn + n for n in range(len(asked))]
                given = {"seed": seeds, "recording": RECORDING, "interventions": floors}
                answers = sorted(made.generate(asked, SAMPLING, **given), key=lambda a: a.index)
            done.append(answers)
            asked = [
                Prompt(
                    p.id,
                    p.conversation.with_reply(a.text, a.token_ids).with_user(f"and {turn}" * n),
                )
                for n, (p, a) in enumerate(zip(asked, answers, strict=True), 1)
            ]
    return done


@pytest.mark.parametrize("floors", [(), FLOORS], ids=["plain", "floors"])
def test_answers_and_records_are_those_of_prompts_computed_whole(floors):
    """In float32; the tolerance is that of sums in another order."""
    made = engine()
    kept, whole = (talk(made, floors=floors, keeps=keeps) for keeps in (True, False))
    for with_kept, without in zip(kept, whole, strict=True):
        for a, b in zip(with_kept, without, strict=True):
            assert a.token_ids == b.token_ids
            torch.testing.assert_close(a.prompt_K, b.prompt_K, rtol=1e-3, atol=2e-4)
            torch.testing.assert_close(a.projections_TK, b.projections_TK, rtol=1e-3, atol=2e-4)


def test_of_a_conversation_that_grows_each_turn_computes_what_is_new():
    """Computed are prompts less those before, which hold all but the last turn's answer and text;
    answers count as new text, for what was computed while they were made is not used."""
    made = engine()
    talk(made)
    counted = made.prompt_tokens
    whole = engine()
    talk(whole, keeps=False)
    assert counted.given == whole.prompt_tokens.given == whole.prompt_tokens.computed
    assert counted.computed < 0.6 * counted.given


def test_turns_that_were_answered_before_are_primed_to_the_same_bits():
    made = engine()
    at_once = talk(made, floors=FLOORS)
    resumed = talk(engine(), floors=FLOORS, kept=at_once[:2])
    for a, b in zip(at_once[2], resumed[2], strict=True):
        assert a.token_ids == b.token_ids
        assert torch.equal(a.prompt_K, b.prompt_K)
        assert torch.equal(a.projections_TK, b.projections_TK)


def test_rows_that_leave_the_conversation_do_not_stop_the_others():
    made = engine()
    asked = prompts()
    with made.keeping_prompts():
        answers = sorted(made.generate(asked, SAMPLING, seed=list(range(6))), key=lambda a: a.index)
        following = [
            Prompt(p.id, p.conversation.with_reply(a.text, a.token_ids).with_user("go on"))
            for p, a in zip(asked, answers, strict=True)
        ][1::2]
        before = made.prompt_tokens.computed
        some = list(made.generate(following, SAMPLING, seed=[1, 2, 3]))
    lengths = [len(made.template.prompt_ids(p.conversation)) for p in following]
    assert made.prompt_tokens.computed - before < sum(lengths)
    alone = list(engine().generate(following, SAMPLING, seed=[1, 2, 3]))
    assert {a.index: a.token_ids for a in some} == {a.index: a.token_ids for a in alone}


def test_prompts_that_do_not_go_on_or_are_steered_otherwise_are_computed_whole():
    made = engine()
    for change in ("others", "steered"):
        with made.keeping_prompts():
            list(made.generate(prompts(), SAMPLING, seed=1))
            before = made.prompt_tokens.computed
            texts = ["another", "talk"] if change == "others" else ["hello", "what is the sea"]
            longer = [
                Prompt(p.id, p.conversation.with_reply("yes").with_user("more"))
                for p in prompts(texts)
            ]
            floors = FLOORS if change == "steered" else ()
            list(made.generate(longer, SAMPLING, seed=1, interventions=floors))
            lengths = [len(made.template.prompt_ids(p.conversation)) for p in longer]
            assert made.prompt_tokens.computed - before == sum(lengths)


def test_outside_nothing_is_kept_in_memory():
    made = engine()
    assert isinstance(made, KeepsPrompts)
    list(made.generate(prompts(), SAMPLING, seed=1))
    assert made._kept is None
    with made.keeping_prompts():
        list(made.generate(prompts(), SAMPLING, seed=1))
        assert made._kept is not None
    assert made._kept is None


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gemma3", "deepseek_v4", "gemma3n"])
def test_models_that_keep_more_than_keys_and_values_answer_as_ever(family):
    made, other = engine(family), engine(family)
    kept, whole = talk(made, 2), talk(other, 2, keeps=False)
    assert [[a.token_ids for a in turn] for turn in kept] == [
        [a.token_ids for a in turn] for turn in whole
    ]
