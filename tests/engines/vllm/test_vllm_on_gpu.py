"""vLLM on a GPU: both model runners, compiled and not, scheduling ahead. `pytest -m gpu` runs them.

Tolerances: vLLM's attention rounds float32 to TF32 there, by up to 2.5e-3 of a mean.
"""

from __future__ import annotations

import importlib.util
import itertools

import pytest
import torch

from keel.engines import Probe, Recording, open_engine
from keel.types import Conversation, Message, Sampling
from tests.engines.vllm.serving_vllm import assert_near, band, by_index, prompt, started, tiny

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(900),
]

PROMPTS = [prompt(f"tell me of the sea, part {n}, and of the ship", f"p{n}") for n in range(6)]
SAMPLING = Sampling(max_new_tokens=60, temperature=0)
PROBES = tuple(Probe(n, band(0.0, seed=7)[0].direction) for n in range(2))
RECORDING = Recording(means=True, probes=PROBES)
FLOORS = band(3.0)
"""Floors that most tokens of the tiny model are under."""
TALK = Conversation(
    (
        Message("user", "hello"),
        Message("assistant", "I am the sea, and I am wide."),
        Message("user", "go on"),
        Message("assistant", "There is nothing more."),
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def plain(folder):
    return open_engine(str(folder), dtype="float32", device="cuda")


@pytest.fixture(scope="module")
def ends(plain):
    """Tokens that end most of the greedy answers, at lengths of their own."""
    answers = by_index(plain.generate(PROMPTS, SAMPLING, seed=0, interventions=FLOORS))
    return frozenset(answers[n].token_ids[2 + 5 * n] for n in range(4))


@pytest.fixture(
    scope="module",
    params=itertools.product(["0", "1"], [True, False]),
    ids=lambda p: f"V{int(p[0]) + 1}-{'eager' if p[1] else 'graphs'}",
)
def engine(request, folder, ends):
    runner, eager = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_USE_V2_MODEL_RUNNER", runner)
        with started(folder, eager=eager, recordings=8) as engine:
            assert engine.llm.llm_engine.vllm_config.scheduler_config.async_scheduling
            engine.template.end_tokens = lambda configured=(): ends
            yield engine


@pytest.mark.parametrize("interventions", [[], FLOORS], ids=["plain", "floors"])
def test_answers_are_recorded_as_when_they_are_read_again(engine, plain, interventions):
    """Read by the other engine: a near tie may send two engines' answers apart."""
    given = {"recording": RECORDING, "interventions": interventions}
    answers = by_index(engine.generate(PROMPTS, SAMPLING, seed=0, **given))
    assert any(answer.finish == "stop" for answer in answers.values())
    for index, answer in answers.items():
        told = Message("assistant", answer.text, token_ids=answer.token_ids)
        talk = Conversation((*PROMPTS[index].conversation.messages, told))
        ((reading,),) = [tuple(one.turns) for one in plain.read([talk], **given)]
        assert answer.activations.tokens == len(answer.token_ids)
        assert_near(answer.activations.means_LD, reading.activations.means_LD)
        assert_near(answer.projections_TK, reading.projections_TK)


def test_settings_of_requests_do_not_mix(engine):
    alone = {
        name: by_index(engine.generate(PROMPTS, SAMPLING, seed=0, interventions=floors))
        for name, floors in (("plain", []), ("floors", FLOORS))
    }
    again = by_index(engine.generate(PROMPTS, SAMPLING, seed=0))
    assert [again[n].token_ids for n in range(6)] == [alone["plain"][n].token_ids for n in range(6)]
    assert any(alone["plain"][n].token_ids != alone["floors"][n].token_ids for n in range(6))


def test_likelihoods_and_divergences_are_those_of_the_other_engine(engine, plain):
    recording = Recording(log_likelihood=True)
    (ours,), (theirs,) = (list(one.read([TALK], recording=recording)) for one in (engine, plain))
    for mine, other in zip(ours.turns, theirs.turns, strict=True):
        assert_near(mine.log_likelihood_T, other.log_likelihood_T)
    (mine,), (other,) = (list(one.divergence([TALK], [FLOORS])) for one in (engine, plain))
    assert (mine.tokens, mine.kl) == (other.tokens, pytest.approx(other.kl, rel=5e-2, abs=1e-3))


def test_answers_that_are_abandoned_leave_no_trace(engine):
    worker = engine.llm.llm_engine.model_executor.driver_worker.worker.keel_worker
    for wanted in (1, 2, 3):
        answers = engine.generate(PROMPTS, SAMPLING, seed=0, recording=RECORDING)
        for _ in range(wanted):
            next(answers)
        answers.close()
        assert len(worker.book.free) == engine.deployment.recordings
        assert not worker.book.by_key
