"""vLLM schedules ahead: a step runs before it is known what the step before has drawn, so a token
that ends an answer is run, too. What is recorded and counted is as if it had not been.
"""

from __future__ import annotations

import importlib.util

import pytest

from keel.engines import Probe, Recording, open_engine
from keel.types import Sampling
from tests.engines.vllm.serving_vllm import (
    assert_near,
    band,
    by_index,
    on_equal_rounding,
    prompt,
    started,
    tiny,
)

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(600),
]

PROMPTS = [prompt(f"tell me of the sea, part {n}, and of the ship", f"p{n}") for n in range(6)]
SAMPLING = Sampling(max_new_tokens=60, temperature=0)
PROBES = tuple(Probe(n, band(0.0, seed=7)[0].direction) for n in range(2))
FLOORS = band(3.0)
"""Floors that most tokens of the tiny model are under."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def ends(folder):
    """Tokens that end most of the greedy answers, at lengths of their own."""
    engine = open_engine(str(folder), dtype="float32", device="cpu")
    answers = by_index(engine.generate(PROMPTS, SAMPLING, seed=0, interventions=FLOORS))
    return frozenset(answers[n].token_ids[2 + 5 * n] for n in range(4))


@pytest.fixture(scope="module")
def plain(folder, ends):
    engine = open_engine(str(folder), dtype="float32", device="cpu")
    engine.template.end_tokens = lambda configured=(): ends
    return engine


@pytest.fixture(scope="module")
def engine(folder, ends):
    """An engine that schedules ahead, which vLLM by itself does on a GPU only.

    Eight tokens a step, and a cache too small for all answers at once.
    """
    from vllm.platforms.cpu import CpuPlatform

    configure = CpuPlatform.check_and_update_config
    tight = {
        "max_num_batched_tokens": 8,
        "max_num_seqs": 6,
        "num_gpu_blocks_override": 12,
        "block_size": 32,
    }
    with pytest.MonkeyPatch.context() as patch:

        def ahead(_cls, config):
            configure(config)
            config.scheduler_config.async_scheduling = True

        patch.setattr(CpuPlatform, "check_and_update_config", classmethod(ahead))
        with started(folder, max_model_len=128, recordings=8, arguments=tight) as engine:
            assert engine.llm.llm_engine.vllm_config.scheduler_config.async_scheduling
            engine.template.end_tokens = lambda configured=(): ends
            yield engine


def worker_of(engine):
    return engine.llm.llm_engine.model_executor.driver_worker.worker.keel_worker


def agree(ours, theirs):
    for index, expected in theirs.items():
        assert ours[index].token_ids == expected.token_ids
        assert ours[index].finish == expected.finish
        if expected.activations is not None:
            assert ours[index].activations.tokens == expected.activations.tokens
            assert_near(ours[index].activations.means_LD, expected.activations.means_LD)
        assert_near(ours[index].projections_TK, expected.projections_TK)


@pytest.mark.parametrize("means", [True, False], ids=["means", "projections alone"])
@pytest.mark.parametrize("interventions", [[], FLOORS], ids=["plain", "floors"])
def test_answers_are_recorded_as_by_the_other_engine(
    engine, plain, interventions, means, monkeypatch
):
    worker, left_out = worker_of(engine), []
    collect = worker.recordings.collect

    def noting(*arguments):
        left_out.append(int(worker.shared.left_out_R.sum()))
        return collect(*arguments)

    monkeypatch.setattr(worker.recordings, "collect", noting)
    recording = Recording(means=means, probes=PROBES)
    asked = {"seed": 0, "recording": recording, "interventions": interventions}
    made = engine.generate(PROMPTS, SAMPLING, **asked)
    expected = plain.generate(PROMPTS, SAMPLING, **asked)
    ours, theirs = by_index(made), by_index(expected)
    agree(ours, theirs)
    assert any(answer.finish == "stop" for answer in theirs.values())
    assert max(left_out) > 0  # steps did run ahead


@on_equal_rounding
def test_firing_counts_no_token_that_ended_an_answer(engine, plain):
    """Where no answer is recorded, too. No prompt is in the cache, no answer is preempted."""
    for recording in (Recording(), Recording(means=True)):
        first = "unrecorded" if recording == Recording() else "recorded"
        prompts = [prompt(f"{first}: {one.id} of the wide sea") for one in PROMPTS[:2]]
        asked = {"seed": 0, "recording": recording, "interventions": FLOORS}
        made = engine.generate(prompts, SAMPLING, **asked)
        # Unrecorded, the other engine spares the last token of an answer that reached its limit.
        asked["recording"] = Recording(means=True)
        expected = plain.generate(prompts, SAMPLING, **asked)
        ours, theirs = by_index(made), by_index(expected)
        assert [ours[n].token_ids for n in range(2)] == [theirs[n].token_ids for n in range(2)]
        assert made.firing.slots == expected.firing.slots
        assert made.firing.by_layer == pytest.approx(expected.firing.by_layer)


def test_answers_that_are_abandoned_leave_no_trace(engine):
    worker = worker_of(engine)
    for wanted in (1, 2, 3):
        answers = engine.generate(PROMPTS, SAMPLING, seed=0, recording=Recording(means=True))
        for _ in range(wanted):
            next(answers)
        answers.close()
        assert len(worker.book.free) == engine.deployment.recordings
        assert not worker.book.by_key
    again = by_index(engine.generate(PROMPTS, SAMPLING, seed=0, recording=Recording(means=True)))
    assert sorted(again) == list(range(6))
