"""A model whose blocks run several times in a pass is refused by name: no layer is one activation.

Its rounds would be taken for passes of their own: a record for rows, a probe for the first or last.
"""

import pytest
import torch
from transformers import HrmTextConfig, HrmTextForCausalLM

from keel import Floor, Probe, recorded, steered
from keel.errors import ModelLayoutError, NotAppliedError
from keel.steering import find_decoder
from keel.testing import tiny_model

IDS = torch.arange(3, 11)[None]
DIRECTION = torch.eye(32)[0]
STACKS = ("model.H_module.layers", "model.L_module.layers")


@pytest.fixture(scope="module")
def looped():
    torch.manual_seed(0)
    config = HrmTextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        head_dim=8,
    )
    return HrmTextForCausalLM(config).eval()


def calls(model):
    yield lambda: model(IDS)
    yield lambda: model(IDS, use_cache=False)
    yield lambda: model.generate(IDS, max_new_tokens=2, do_sample=False)


def test_the_search_for_blocks_names_the_loop_and_how_often_it_runs(looped):
    with pytest.raises(
        ModelLayoutError, match=r"looped model\): .*L_module.layers' 6 times.*H_mod"
    ):
        find_decoder(looped)


@pytest.mark.parametrize(("blocks", "call"), [(STACKS[0], 1), *((STACKS[1], n) for n in range(3))])
def test_steering_a_list_that_runs_in_rounds_is_refused(looped, blocks, call):
    with (
        pytest.raises(ModelLayoutError, match=rf"'{blocks}' run more than once.*looped"),
        steered(looped, [Floor(0, DIRECTION, 5.0)], blocks=blocks),
    ):
        list(calls(looped))[call]()


@pytest.mark.parametrize("call", [0, 2])
def test_a_list_whose_cache_others_filled_in_the_same_pass_is_refused_before_its_second_round(
    looped, call
):
    with (
        pytest.raises(NotAppliedError, match="cache of 8 tokens, of which 0 were made"),
        steered(looped, [Floor(0, DIRECTION, 5.0)], blocks=STACKS[0]),
    ):
        list(calls(looped))[call]()


@pytest.mark.parametrize("blocks", STACKS)
def test_a_compiled_model_that_loops_is_refused_too(looped, blocks):
    """Its rounds were steered and counted as passes: rounds were counted outside of graphs only."""
    compiled = torch.compile(looped, backend="eager")
    with (
        torch.no_grad(),
        pytest.raises(ModelLayoutError, match=rf"'{blocks}' run more than once.*looped"),
        steered(compiled, [Floor(0, DIRECTION, 5.0)], blocks=blocks),
    ):
        compiled(IDS, use_cache=False)


@pytest.mark.parametrize("blocks", STACKS)
@pytest.mark.parametrize("call", range(3))
def test_a_probe_reads_no_round_of_a_loop(looped, blocks, call):
    with (
        pytest.raises(ModelLayoutError, match=rf"'{blocks}' run more than once.*looped"),
        recorded(looped, means=False, probes=[Probe(0, DIRECTION)], blocks=blocks),
    ):
        list(calls(looped))[call]()


def test_blocks_given_themselves_are_refused_when_they_run_in_rounds(looped):
    blocks = tuple(looped.get_submodule(STACKS[0]))
    with pytest.raises(NotAppliedError, match="ran twice"), recorded(looped, blocks=blocks):
        looped(IDS)
    with (
        pytest.raises(NotAppliedError, match="more than once"),
        steered(looped, [Floor(0, DIRECTION, 5.0)], blocks=blocks),
    ):
        looped(IDS)


def test_after_the_refusal_the_model_is_itself_again(looped):
    before = looped(IDS).logits
    with pytest.raises(ModelLayoutError), recorded(looped, blocks=STACKS[0]):
        looped(IDS)
    assert torch.equal(looped(IDS).logits, before)


def test_a_stack_that_is_called_by_itself_twice_is_no_loop():
    model = tiny_model("llama")
    with recorded(model) as record:
        model(IDS)
        for _ in range(2):
            model.model(IDS)
    assert record.counts == [8, 8, 8]


def test_a_pass_that_broke_off_is_not_counted_as_a_round():
    model = tiny_model("llama")
    with recorded(model) as record:
        with pytest.raises(IndexError):
            model(torch.tensor([[10**6]]))
        model.model(IDS)
        model.model(IDS)
    assert record.counts == [8, 8]
