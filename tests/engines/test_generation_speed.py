"""A step of generation asks nothing of the device, and steps over a static cache are replayable."""

from dataclasses import replace

import pytest
import torch

from keel.engines import Probe, Recording
from keel.engines.decoding import NO_TOKEN, draw, draw_by_sorting
from keel.engines.transformers import TransformersEngine
from keel.errors import NotFiniteError
from keel.geometry import unit
from keel.testing import TINY_FAMILIES, shrunken_model, tiny_tokenizer
from keel.testing.tiny_models import VOCABULARY_SIZE
from keel.types import Floor, Sampling
from tests.engines.device_work import DeviceAskedError, NothingAsked, replayed
from tests.engines.small import SAMPLING, V, answers, engine, prompts

RECORDING = Recording(means=True, probes=(Probe(2, V), Probe(0, -V)))
FLOORS = [Floor(1, V, 0.2), Floor(2, V, 0.1, tokens="generated")]
STATIC = ["llama", "gemma", "qwen2", "qwen3", "gpt2"]


def opened(family):
    """An engine on a tiny or a shrunken model, whose answers end at different lengths."""
    if family in TINY_FAMILIES:
        return engine(family)
    model = shrunken_model(family)
    model.generation_config.eos_token_id = list(range(3, VOCABULARY_SIZE, 12))
    return TransformersEngine(model, tiny_tokenizer())


def ahead(made, *, static=False):
    """The engine as it generates on a GPU: a step ahead of what the host knows."""
    made.steps_ahead = 1
    passes = replace(made.traits.passes, is_mask_given=True)
    made.traits = replace(made.traits, passes=passes)
    if static:
        made.is_static, made.capture = True, replayed
        assert made.why_not_static is None
    return made


def unasked(made, **arguments):
    """Completions, of whose steps from the second pass on none may ask the device for anything."""
    guard, passes = NothingAsked(is_on=False), []

    def on_step():
        passes.append(1)
        guard.is_on = len(passes) > 1

    results = made.generate(prompts(), seed=1, on_step=on_step, **arguments)
    with guard:
        done = [next(results) for _ in prompts()]
        guard.is_on = False  # how often floors fired may be asked at the end
        list(results)
    assert len(passes) > 3
    return sorted(done, key=lambda c: c.index)


def assert_same(done, expected, *, exactly=False):
    assert [c.token_ids for c in done] == [c.token_ids for c in expected]
    assert [c.finish for c in done] == [c.finish for c in expected]
    for a, b in zip(done, expected, strict=True):
        if b.activations is not None and b.token_ids:
            atol = 0 if exactly else 1e-4
            for x, y in (
                (a.activations.means_LD, b.activations.means_LD),
                (a.activations.norms_L, b.activations.norms_L),
                (a.projections_TK, b.projections_TK),
            ):
                torch.testing.assert_close(x, y, rtol=atol, atol=atol)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_a_step_of_generation_asks_nothing_of_the_device(family, temperature):
    """Every draw asked whether a row's logits were finite, and whether its nucleus was wide; every
    pass, whether there was padding; every row that left, for its record."""
    made = ahead(engine(family))
    sampling = replace(SAMPLING, temperature=temperature)
    arguments = {"sampling": sampling, "recording": RECORDING, "interventions": FLOORS}
    done = unasked(made, **arguments)
    assert {c.finish for c in done} == {"stop", "length"}  # rows leave on the way


def test_the_guard_sees_a_question():
    for question in (
        lambda: bool(torch.ones(2).any()),
        lambda: torch.ones(2)[torch.ones(2) > 0],
        lambda: torch.ones(2).tolist(),
        lambda: torch.ones(2).nonzero(),
        lambda: torch.ones(2).cpu(),
    ):
        with NothingAsked(), pytest.raises(DeviceAskedError):
            question()


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_answers_and_records_are_the_same_a_step_ahead(family):
    expected = answers(engine(family), recording=RECORDING, interventions=FLOORS)
    done = answers(ahead(engine(family)), recording=RECORDING, interventions=FLOORS)
    assert_same(done, expected)


@pytest.mark.parametrize("captured", [False, True], ids=["run", "replayed"])
@pytest.mark.parametrize("family", STATIC)
def test_a_static_cache_gives_the_same_answers_records_and_firings(family, captured):
    """Replayed, a step is its tensor operations alone: nothing in it may hang on Python."""
    made, likewise = opened(family), opened(family)
    made.is_static, made.capture = True, replayed if captured else None
    assert made.why_not_static is None
    width = made.decoder.hidden_size
    direction = unit(torch.randn(width, generator=torch.Generator().manual_seed(3)))
    arguments = {
        "seed": 1,
        "recording": Recording(means=True, probes=(Probe(1, direction),)),
        "interventions": [Floor(0, direction, 0.2), Floor(1, direction, 0.1, tokens="generated")],
    }
    static = made.generate(prompts(), SAMPLING, **arguments)
    usual = likewise.generate(prompts(), SAMPLING, **arguments)
    done, expected = (sorted(each, key=lambda c: c.index) for each in (static, usual))
    assert_same(done, expected)
    assert static.firing == usual.firing
    assert usual.firing.rate > 0


def test_a_replayed_step_asks_nothing_of_the_device():
    made = ahead(engine(), static=True)
    arguments = {"sampling": SAMPLING, "recording": RECORDING, "interventions": FLOORS}
    unasked(made, **arguments)


@pytest.mark.parametrize(
    ("family", "reason"),
    [("gemma3", "StaticSlidingWindowLayer"), ("qwen4_exp", "Linear")],
)
def test_a_model_that_cannot_be_replayed_says_why_and_generates_as_usual(family, reason):
    expected = answers(engine(family))
    with pytest.warns(UserWarning, match=f"without static=true: .*{reason}"):
        made = TransformersEngine(engine(family).model, tiny_tokenizer(), is_static=True)
    assert_same(answers(made), expected, exactly=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("top_p", [0.5, 0.95, 1.0])
def test_drawing_by_sorting_draws_the_same(dtype, top_p):
    logits = (3 * torch.randn(64, 2000)).to(dtype)
    uniform = torch.rand(64)
    for temperature in (0.0, 0.7):
        sampling = Sampling(1, temperature, top_p)
        drawn = draw_by_sorting(logits, sampling, uniform)
        expected = draw(logits, sampling, uniform)
        # Tokens of equal logits come in any order, and bfloat16 has many.
        picked, likewise = (logits.gather(1, tokens[:, None]) for tokens in (drawn, expected))
        assert torch.equal(picked, likewise)
        assert dtype == torch.bfloat16 or torch.equal(drawn, expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_row_without_finite_logits_is_marked_and_the_others_are_drawn(bad, temperature):
    logits = torch.zeros(3, 5)
    logits[1, 2] = bad
    drawn = draw_by_sorting(logits, Sampling(1, temperature, 0.9), torch.full((3,), 0.1))
    assert (drawn == NO_TOKEN).tolist() == [False, True, False]


def test_logits_that_are_not_numbers_are_refused_a_step_ahead():
    made = ahead(engine())
    calls = []

    def spoil(_head, _args, logits):
        calls.append(1)
        return logits * torch.nan if len(calls) > 3 else logits

    made.model.lm_head.register_forward_hook(spoil)
    with pytest.raises(NotFiniteError, match="float32"):
        answers(made)
