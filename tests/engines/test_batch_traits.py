"""Every family answers as if each prompt ran alone, from its first token at every step.

The reference is written plainly: no cache, no padding, no company, and equation 1 of the paper in
a hook of its own.
"""

from contextlib import contextmanager

import pytest
import torch

from keel.engines import Probe, Recording
from keel.engines.transformers import TransformersEngine
from keel.errors import ModelLayoutError
from keel.testing import tiny_model, tiny_tokenizer
from keel.testing.tiny_models import VOCABULARY_SIZE
from keel.types import Floor, Sampling
from tests.engines.families import CONFIGS, model_of
from tests.engines.small import SAMPLING, V, answered, answers, prompts
from tests.releases import CACHE

ENDS = list(range(3, VOCABULARY_SIZE, 7))
BLOCKS = {"roberta": "roberta.encoder.layer"}
LIKELIEST = Sampling(max_new_tokens=12, temperature=0)
HALF_FULL = ["qwen3_next", "falcon_h1", "mamba", "qwen2_5_vl"]


def opened(family, **changes):
    """An engine on the family, whose answers end at different lengths."""
    return with_ends(model_of(family, **changes), BLOCKS.get(family))


def with_ends(model, blocks=None):
    model.generation_config.eos_token_id = ENDS
    return TransformersEngine(model, tiny_tokenizer(), blocks=blocks)


@contextmanager
def floored(block, floor, from_token):
    """Equation 1 at one block, on the tokens from `from_token` on, by hand."""

    def hook(_block, _args, output):
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        lift = (floor.value - hidden @ floor.direction).clamp_min(0)
        lift[:, :from_token] = 0
        hidden = hidden + lift[..., None] * floor.direction
        return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def alone(made, number, floor=None):
    """The likeliest tokens of one prompt's answer."""
    ids = list(made.template.prompt_ids(prompts()[number].conversation))
    start = len(ids)
    for _ in range(LIKELIEST.max_new_tokens):
        with torch.no_grad():
            if floor is None:
                logits = made.model(input_ids=torch.tensor([ids]), use_cache=False).logits
            else:
                with floored(made.decoder.blocks[floor.layer], floor, start):
                    logits = made.model(input_ids=torch.tensor([ids]), use_cache=False).logits
        token = int(logits[0, -1].argmax())
        if token in made._end_tokens():
            break
        ids.append(token)
    return tuple(ids[start:])


def cut_before(row, end):
    return row[: row.index(end)] if end in row else row


def together(made, **more):
    """The likeliest tokens of all answers, generated in one batch, and the call's results."""
    found = made.generate(prompts(), LIKELIEST, seed=0, **more)
    return [c.token_ids for c in sorted(found, key=lambda c: c.index)], found


@pytest.mark.parametrize("family", CONFIGS)
def test_answers_that_end_at_different_lengths_are_those_of_each_prompt_alone(family):
    """Of 178 text types of transformers 5.19, 18 crashed here, and Falcon-H1's, Zaya's and Bart's
    answers were wrong in silence or by their padding."""
    made = opened(family)
    made.model.generation_config.eos_token_id = None
    full = [alone(made, n) for n in range(len(prompts()))]
    # An end token that some answers reach early, some late or never.
    cut = {
        end: [cut_before(row, end) for row in full] for end in sorted({t for r in full for t in r})
    }
    end, expected = max(cut.items(), key=lambda item: len({len(row) for row in item[1]}))
    assert len({len(row) for row in expected}) > 1
    made.model.generation_config.eos_token_id = end
    assert together(made)[0] == expected


@pytest.mark.parametrize("family", [family for family in CONFIGS if family not in BLOCKS])
def test_what_is_recorded_while_generating_is_what_reading_records(family):
    made = opened(family)
    recording = Recording(means=True, probes=(Probe(2, V),))
    done = answers(made, recording=recording)
    for reading in made.read(answered(done), recording=recording):
        completion = done[reading.index]
        if completion.token_ids:
            (turn,) = reading.turns
            means = completion.activations.means_LD
            assert torch.allclose(turn.activations.means_LD, means, rtol=1e-3, atol=1e-3)
            assert torch.allclose(turn.projections_TK, completion.projections_TK, atol=1e-3)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_floor_on_generated_tokens_holds_as_equation_1_by_hand(family):
    made = opened(family)
    made.model.generation_config.eos_token_id = None
    floor = Floor(1, V, 5.0, tokens="generated")
    done, found = together(made, interventions=[floor])
    assert found.firing.rate > 0
    assert done == [alone(made, n, floor) for n in range(len(done))]


@pytest.mark.parametrize("family", HALF_FULL)
def test_rows_that_have_ended_leave_the_states_of_hybrid_models_too(family):
    made = opened(family)
    rows = []
    made.model.register_forward_pre_hook(
        lambda _m, _a, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    answers(made)
    assert rows[0] == len(prompts())
    assert rows[-1] < rows[0]


@pytest.mark.parametrize("where", ["config", "generation config", "both"])
def test_a_model_that_says_use_cache_false_answers_as_with_its_cache(where):
    """Each step saw one token and no history: other answers, without a word."""
    model = tiny_model("llama")
    expected, _ = together(with_ends(tiny_model("llama")))
    if where != "generation config":
        model.config.use_cache = False
    if where != "config":
        model.generation_config.use_cache = False
    assert together(with_ends(model))[0] == expected


def test_a_model_without_a_usable_cache_runs_all_tokens_at_every_step():
    """With a cache that forgets, counts and firings are those of one that does not."""
    floor = Floor(1, V, 1.0)
    expected, usual = together(with_ends(tiny_model("llama")), interventions=[floor])
    model = tiny_model("llama")
    forward = model.model.forward
    model.model.forward = lambda *a, **more: forward(*a, **more | {CACHE: None, "use_cache": False})
    made = with_ends(model)
    assert not made.traits.passes.reuses_state
    done, found = together(made, interventions=[floor])
    assert done == expected
    assert found.firing == usual.firing


def blind_to_padding():
    model = tiny_model("gpt2")
    forward = model.forward
    model.forward = lambda *a, attention_mask=None, position_ids=None, **more: forward(*a, **more)
    return model


@pytest.mark.parametrize("family", ["bart", "roberta", "blind"])
def test_a_model_that_reads_padding_is_never_padded(family):
    made = opened(family) if family != "blind" else with_ends(blind_to_padding())
    widths = []
    made.model.register_forward_pre_hook(
        lambda _m, _a, given: widths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    answers(made)
    lengths = {len(made.template.prompt_ids(p.conversation)) for p in prompts()}
    assert {width for width in widths if width > 1} == lengths
    assert all(
        len({len(made.template.prompt_ids(prompts()[n].conversation)) for n in batch.indices}) == 1
        for batch in made.plan(prompts(), SAMPLING)
    )


def test_a_model_whose_tokens_see_those_behind_them_is_refused():
    with pytest.raises(ModelLayoutError, match="sees those behind it"):
        opened("roberta", is_decoder=False)
