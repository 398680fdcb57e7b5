"""Rollouts come a batch at a time, and a run that stopped goes on as if it had not."""

import torch

from keel.engines import Recording
from keel.rollouts import answer_prompts, batch_seed
from keel.testing import FakeEngine, scripted
from keel.types import Conversation, Message, Prompt, Sampling

PROMPTS = [
    Prompt(f"r/p0/q{n}", Conversation((Message("user", " ".join("abcdefgh"[: n % 5 + 2])),)), "r")
    for n in range(10)
]
SAMPLING = Sampling(max_new_tokens=5)


def answered(engine=None, done=(), seed=0, sampling=SAMPLING, **more):
    engine = engine or FakeEngine()
    batches = engine.plan(PROMPTS, sampling)
    return list(answer_prompts(engine, PROMPTS, batches, sampling, seed=seed, done=done, **more))


def test_every_prompt_gets_its_own_answer_in_the_planned_order():
    """The engine hands them out last first; each echoes the words that it was asked."""
    planned = [batch.indices for batch in FakeEngine().plan(PROMPTS, Sampling(max_new_tokens=9))]
    found = answered(sampling=Sampling(max_new_tokens=9))
    ids = [[r.prompt.id for r in batch.rollouts] for batch in found]
    assert ids == [[PROMPTS[place].id for place in places] for places in planned]
    for rollout in (r for batch in found for r in batch.rollouts):
        asked = rollout.prompt.conversation.messages[-1].content
        assert sorted(rollout.text.split()) == asked.split()


def test_every_answer_carries_its_own_activations():
    """As reading the same words again gives them; an answer without words has none."""

    def reply(conversation, _persona, _chance):
        words = conversation.messages[-1].content
        return words if "c" in words else ""

    engine = FakeEngine(reply=reply)
    for batch in answered(engine):
        spoken = [r for r in batch.rollouts if r.token_ids]
        given = [r.conversation for r in spoken]
        read = {r.index: r for r in engine.read(given, recording=Recording(means=True))}
        means = [read[n].turns[-1].activations.means_LD for n in range(len(given))]
        norms = [read[n].turns[-1].activations.norms_L for n in range(len(given))]
        if not spoken:
            assert batch.activations is None
            continue
        assert batch.activations.rollout_ids == tuple(r.prompt.id for r in spoken)
        assert torch.allclose(batch.activations.means_BLD, torch.stack(means))
        assert torch.allclose(batch.activations.norms_BL, torch.stack(norms))


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


def test_batches_of_the_same_words_are_answered_differently():
    """With one seed for all, ten batches of the same questions would be one batch ten times."""
    words = Conversation((Message("user", "a b c d e f g h"),))
    prompts = [Prompt(f"r/p0/q{n}", words, "r") for n in range(8)]
    engine = FakeEngine()
    plan = engine.plan(prompts, SAMPLING)
    first, second = answer_prompts(engine, prompts, plan, SAMPLING, seed=0)
    assert [r.text for r in first.rollouts] != [r.text for r in second.rollouts]


def test_an_empty_answer_is_a_rollout_without_activations():
    found = answered(FakeEngine(reply=scripted("")))
    assert all(r.text == "" for b in found for r in b.rollouts)
    assert all(b.activations is None for b in found)


def test_whoever_watches_is_told_of_each_answer():
    told = []
    answered(on_rollout=lambda rollout: told.append(rollout.prompt.id))
    assert sorted(told) == sorted(p.id for p in PROMPTS)


class _Counted(FakeEngine):
    """A rolling engine that notes how many prompts each call had."""

    def __init__(self):
        super().__init__(batches_continuously=True)
        self.calls = []

    def generate(self, prompts, *arguments, **options):
        self.calls.append(len(prompts))
        return super().generate(prompts, *arguments, **options)


def test_an_engine_that_schedules_gets_all_that_is_left_in_one_call():
    """Ten prompts in batches of 4, 4 and 2: with the first done, six are left."""
    engine = _Counted()
    answered(engine, done={0})
    assert engine.calls == [6]


def test_a_rolling_engines_batches_come_as_they_fill_up_each_with_its_own_answers():
    """This one hands out the last prompt's answer first, so the last batch is full first."""
    greedy = Sampling(max_new_tokens=5, temperature=0)
    planned = answered(sampling=greedy)
    rolled = answered(FakeEngine(batches_continuously=True), sampling=greedy)
    assert [batch.number for batch in rolled] == [2, 1, 0]
    for batch, same in zip(reversed(rolled), planned, strict=True):
        assert batch.rollouts == same.rollouts
        assert torch.equal(batch.activations.means_BLD, same.activations.means_BLD)


def test_a_batch_is_handed_on_before_the_next_is_answered():
    """What was answered must be safe soon: a kill costs a batch or two, not the run."""
    engine, told = FakeEngine(batches_continuously=True), []
    batches = engine.plan(PROMPTS, SAMPLING)
    rolling = answer_prompts(engine, PROMPTS, batches, SAMPLING, seed=0, on_rollout=told.append)
    first = next(rolling)
    assert [rollout.prompt.id for rollout in told] == [
        r.prompt.id for r in reversed(first.rollouts)
    ]


def test_a_rolling_run_that_stopped_goes_on_as_if_it_had_not():
    whole = {b.number: b for b in answered(FakeEngine(batches_continuously=True))}
    (rest,) = answered(FakeEngine(batches_continuously=True), done={0, 2})
    assert rest.rollouts == whole[1].rollouts
