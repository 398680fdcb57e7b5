"""What only a CUDA device can show: `pytest -m gpu` on a machine that has one."""

import pytest
import torch

import keel
from keel.engines import Probe, Recording
from keel.engines.transformers import TransformersEngine
from keel.errors import NotFiniteError
from keel.testing import tiny_model, tiny_tokenizer
from keel.testing.tiny_models import VOCABULARY_SIZE
from keel.types import Floor, Sampling
from tests.engines.small import SAMPLING, V, answered, answers, prompts

pytestmark = pytest.mark.gpu

RECORDING = Recording(means=True, probes=(Probe(2, V), Probe(0, -V)))
FLOORS = [Floor(1, V, 0.2), Floor(2, V, 0.1, tokens="generated")]
FAMILIES = ["llama", "qwen3", "gpt2"]


def opened(family="llama", *, device="cuda", dtype=torch.float32, **more):
    model = tiny_model(family).to(device, dtype)
    model.generation_config.eos_token_id = list(range(3, VOCABULARY_SIZE, 12))
    return TransformersEngine(model, tiny_tokenizer(), **more)


def generate(made, **more):
    arguments = {"seed": 1, "recording": RECORDING, "interventions": FLOORS, **more}
    results = made.generate(prompts(), SAMPLING, **arguments)
    return sorted(results, key=lambda c: c.index), results.firing


def unwaited(made, sampling, from_pass):
    """Answers, of whose passes from this one on none may wait for the device."""
    passes = []

    def on_step():
        passes.append(1)
        torch.cuda.set_sync_debug_mode("error" if len(passes) >= from_pass else "default")

    arguments = {"seed": 1, "recording": RECORDING, "interventions": FLOORS, "on_step": on_step}
    results = made.generate(prompts(), sampling, **arguments)
    try:
        done = [next(results) for _ in prompts()]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    list(results)
    assert len(passes) > from_pass
    return done


def assert_same(done, expected):
    assert [c.token_ids for c in done] == [c.token_ids for c in expected]
    for a, b in zip(done, expected, strict=True):
        if b.token_ids:
            means = a.activations.means_LD, b.activations.means_LD
            torch.testing.assert_close(*means, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(a.projections_TK, b.projections_TK, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("family", [*FAMILIES, "gemma3"])
def test_no_step_waits_for_the_device(family, temperature):
    done = unwaited(opened(family), Sampling(12, temperature, 0.95), from_pass=2)
    assert {c.finish for c in done} == {"stop", "length"}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_captured_step_waits_for_the_device(family):
    made = opened(family, is_static=True)
    unwaited(made, Sampling(12, 1.0, 0.95), from_pass=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_captured_steps_give_the_same_firings_and_in_float32_the_same_answers(family, dtype):
    """In bfloat16 another attention kernel may round otherwise, and a draw come out otherwise."""
    made = opened(family, dtype=dtype, is_static=True)
    assert made.why_not_static is None
    captured, firing = generate(made)
    made.is_static = False
    run, expected = generate(made)
    assert firing.slots[1] > 0
    assert firing.rate > 0
    if dtype == torch.float32:
        assert_same(captured, run)
        assert firing == expected


def test_a_captured_step_runs_no_python_of_the_model():
    made = opened(is_static=True)
    made.model.generation_config.eos_token_id = None
    passes = []
    made.model.register_forward_pre_hook(lambda *_: passes.append(1))
    answers(made)
    # The prompts, the first step, and the second as it is captured; ten more are replayed.
    assert len(passes) == 3


def test_records_of_captured_steps_are_what_reading_records():
    made = opened(is_static=True)
    done, _ = generate(made, interventions=())
    for reading in made.read(answered(done), recording=RECORDING):
        completion = done[reading.index]
        if completion.token_ids:
            (turn,) = reading.turns
            means = turn.activations.means_LD, completion.activations.means_LD
            torch.testing.assert_close(*means, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", [*FAMILIES, "gemma3"])
def test_answers_and_firings_are_those_of_a_cpu(family):
    """Draws of the same seed: float32 on both, so that a draw differs where a number lies within
    1e-5 of a border, for 72 draws with a chance below 1 in 500."""
    done, firing = generate(opened(family))
    expected, fired = generate(opened(family, device="cpu"))
    assert_same(done, expected)
    assert firing == fired


@pytest.mark.parametrize("is_static", [False, True])
def test_logits_that_are_not_numbers_are_refused(is_static):
    made = opened(is_static=is_static)
    with torch.no_grad():
        made.model.lm_head.weight[5] = torch.nan
    with pytest.raises(NotFiniteError, match="float32"):
        generate(made)


def test_a_model_with_sliding_windows_is_not_captured_and_says_why():
    with pytest.warns(UserWarning, match="without static=true: .*StaticSlidingWindowLayer"):
        made = opened("gemma3", is_static=True)
    done, _ = generate(made)
    assert_same(done, generate(opened("gemma3"))[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_floor_holds_every_token(dtype):
    model = tiny_model("llama").to("cuda", dtype)
    ids_BT = torch.arange(12, device="cuda").reshape(2, 6) + 3
    streams = []
    with torch.no_grad(), keel.steered(model, [Floor(1, V, 2.0)]) as steering:
        model.model.layers[1].register_forward_hook(lambda _m, _a, out: streams.append(out))
        model(ids_BT)
        assert steering.firing().slots == {1: 12}
    stream = streams[0] if isinstance(streams[0], torch.Tensor) else streams[0][0]
    assert float((stream.float() @ V.cuda()).min()) >= 2.0 - (
        1e-4 if dtype == torch.float32 else 0.1
    )
