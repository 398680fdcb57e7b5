"""Rollouts come a batch at a time, and a run that stopped goes on as if it had not."""

import torch

from keel.rollouts import answer_prompts, batch_seed
from keel.testing import FakeEngine, scripted
from keel.types import Conversation, Message, Prompt, Sampling

PROMPTS = [
    Prompt(f"r/p0/q{n}", Conversation((Message("user", " ".join("abcdefgh"[: n % 5 + 2])),)), "r")
    for n in range(10)
]
SAMPLING = Sampling(max_new_tokens=5)


def answered(engine=None, done=(), seed=0, **more):
    engine = engine or FakeEngine()
    batches = engine.plan(PROMPTS, SAMPLING)
    return list(answer_prompts(engine, PROMPTS, batches, SAMPLING, seed=seed, done=done, **more))


def test_every_prompt_is_answered_once_and_carries_its_own_activations():
    found = answered()
    ids = [r.prompt.id for batch in found for r in batch.rollouts]
    assert sorted(ids) == sorted(p.id for p in PROMPTS)
    for batch in found:
        assert batch.activations.rollout_ids == tuple(r.prompt.id for r in batch.rollouts)


def test_batches_done_before_are_left_out_and_the_others_are_the_same():
    whole, rest = answered(), answered(done={0, 2})
    assert [b.number for b in rest] == [1]
    assert rest[0].rollouts == whole[1].rollouts
    assert torch.equal(rest[0].activations.means_BLD, whole[1].activations.means_BLD)


def test_another_seed_gives_other_answers():
    texts = [[r.text for b in answered(seed=s) for r in b.rollouts] for s in (0, 1)]
    assert texts[0] != texts[1]


def test_each_batch_has_its_own_seed():
    seeds = {batch_seed(run, number) for run in range(20) for number in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_empty_answer_is_a_rollout_without_activations():
    found = answered(FakeEngine(reply=scripted("")))
    assert all(r.text == "" for b in found for r in b.rollouts)
    assert all(b.activations is None for b in found)


def test_whoever_watches_is_told_of_each_answer():
    told = []
    answered(on_rollout=lambda rollout: told.append(rollout.prompt.id))
    assert sorted(told) == sorted(p.id for p in PROMPTS)
