"""What `recorded` promises: the means and projections that hidden states give, in passes that are
made anyway."""

import gc
import weakref

import pytest
import torch

import keel
from keel.errors import ModelLayoutError, NotAppliedError, TooFewSamplesError, UsageError
from keel.geometry import unit
from keel.steering import Addition, Probe, find_decoder, recorded, steered
from keel.testing import TINY_FAMILIES, tiny_model
from tests.reference.streams import residual_stream
from tests.releases import CACHE

HIDDEN, LAYERS = 32, 4
IDS = torch.randint(10, 90, (3, 9), generator=torch.Generator().manual_seed(1))
V = unit(torch.randn(HIDDEN, generator=torch.Generator().manual_seed(2)))
PADS = torch.zeros(3, 4, dtype=torch.long)
PADDED = torch.cat([PADS, IDS], 1)
MASK = torch.cat([PADS, torch.ones_like(IDS)], 1)


def run(model, ids=IDS, **more):
    with torch.no_grad():
        return model(input_ids=ids, **more)


def block_outputs(model, ids=IDS, **more):
    """Each block's output [layer, row, token, hidden], by hooks of the test's own.

    Not by `hidden_states` alone: their last entry stands behind the final norm.
    """
    outputs = []

    def keep(_block, _args, output):
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        outputs.append(residual_stream(model, hidden).detach().clone())

    handles = [block.register_forward_hook(keep) for block in find_decoder(model).blocks]
    run(model, ids, **more)
    for handle in handles:
        handle.remove()
    return torch.stack(outputs)


def generated(model, ids=IDS, new=5, **more):
    given = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, **more}
    return model.generate(input_ids=ids, **given)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_means_are_those_of_hidden_states_on_every_family(family):
    model = tiny_model(family)
    with recorded(model) as record:
        hidden = run(model, output_hidden_states=True).hidden_states
    # Entry n + 1 is block n's output; the last entry has passed the final norm and is no block's.
    wanted_BLD = torch.stack([residual_stream(model, h).mean(1) for h in hidden[1:-1]], 1)
    torch.testing.assert_close(record.means[:, :-1], wanted_BLD, rtol=1e-5, atol=1e-6)
    last_BD = block_outputs(model)[-1].mean(1)
    torch.testing.assert_close(record.means[:, -1], last_BD, rtol=1e-5, atol=1e-6)
    if hidden[-1].ndim == 3:  # Gemma 3n keeps its streams there, before the final norm
        assert not torch.allclose(record.means[:, -1], hidden[-1].mean(1), atol=1e-3)
    assert record.counts == [9, 9, 9]


def test_norms_are_means_of_each_tokens_length():
    model = tiny_model("llama")
    with recorded(model) as record:
        run(model)
    norms_BL = block_outputs(model).norm(dim=-1).mean(-1).T
    torch.testing.assert_close(torch.stack([a.norms_L for a in record.activations]), norms_BL)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_cached_generation_records_what_one_uncached_pass_does(family):
    model = tiny_model(family)
    probes = [Probe(1, V), Probe(3, -V)]
    with recorded(model, tokens="generated", probes=probes) as cached:
        made = generated(model)
    # The last token that is sampled does not pass through the model.
    outputs_LBTD = block_outputs(model, made[:, :-1])[:, :, IDS.shape[1] :]
    assert cached.counts == [4, 4, 4]
    torch.testing.assert_close(
        cached.means, outputs_LBTD.mean(2).transpose(0, 1), rtol=1e-3, atol=1e-4
    )
    wanted_BTK = torch.stack([outputs_LBTD[1] @ V, outputs_LBTD[3] @ -V], -1)
    torch.testing.assert_close(torch.stack(cached.projections), wanted_BTK, rtol=1e-3, atol=1e-4)


def test_prompt_and_generated_tokens_make_up_all_tokens():
    model, sums = tiny_model("llama"), {}
    for tokens in ("all", "prompt", "generated"):
        with recorded(model, tokens=tokens) as record:
            generated(model)
        sums[tokens] = sum(a.means_LD * a.tokens for a in record.activations)
    assert sums["all"].shape == (LAYERS, HIDDEN)
    torch.testing.assert_close(sums["prompt"] + sums["generated"], sums["all"])


def test_all_tokens_but_the_first_of_each_row_are_recorded():
    model = tiny_model("llama")
    with recorded(model, tokens="not_first", probes=[Probe(1, V)]) as some:
        run(model)
    with recorded(model, probes=[Probe(1, V)]) as every:
        run(model)
    assert some.counts == [n - 1 for n in every.counts]
    for kept, whole in zip(some.projections, every.projections, strict=True):
        torch.testing.assert_close(kept, whole[1:])


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_left_padding_is_not_counted_in_a_pass(family):
    model = tiny_model(family)
    positions = (MASK.cumsum(1) - 1).clamp_min(0)
    with recorded(model, probes=[Probe(1, V)]) as alone:
        run(model)
    with recorded(model, probes=[Probe(1, V)]) as padded:
        run(model, PADDED, attention_mask=MASK, position_ids=positions)
    assert padded.counts == [9, 9, 9]
    torch.testing.assert_close(padded.means, alone.means, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(padded.projections, alone.projections, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tokens", ["all", "generated"])
def test_left_padding_is_not_counted_while_generating(tokens):
    model = tiny_model("llama")
    with recorded(model, tokens=tokens) as alone:
        generated(model)
    with recorded(model, tokens=tokens) as padded:
        generated(model, PADDED, attention_mask=MASK)
    assert padded.counts == alone.counts
    torch.testing.assert_close(padded.means, alone.means, rtol=1e-3, atol=1e-4)


def test_rows_of_a_batch_record_what_each_does_alone():
    model = tiny_model("llama")
    with recorded(model) as together:
        run(model)
    with recorded(model) as alone:
        for row in IDS:
            run(model, row[None])
    assert together.counts == alone.counts
    torch.testing.assert_close(together.means, alone.means)


def test_a_mask_counts_given_positions_only():
    model = tiny_model("llama")
    mask = torch.zeros(3, 9, dtype=torch.bool)
    mask[0, 2:5], mask[1, 8], mask[2, :] = True, True, True
    with recorded(model, mask=mask) as record:
        run(model)
    outputs_LBTD = block_outputs(model)
    assert record.counts == [3, 1, 9]
    for row, means_LD in enumerate(record.means):
        torch.testing.assert_close(means_LD, outputs_LBTD[:, row, mask[row]].mean(1))


def test_a_masks_positions_are_counted_from_the_start_of_the_cache():
    model = tiny_model("llama")
    mask = torch.zeros(3, 9, dtype=torch.bool)
    mask[:, 3:7] = True
    with recorded(model, mask=mask) as whole:
        run(model)
    with recorded(model, mask=mask) as parts:
        first = run(model, IDS[:, :5], use_cache=True)
        run(model, IDS[:, 5:], **{CACHE: first[CACHE]})
    assert parts.counts == whole.counts == [4, 4, 4]
    torch.testing.assert_close(parts.means, whole.means, rtol=1e-4, atol=1e-5)


def test_two_conversations_taken_in_turns_stay_apart():
    model = tiny_model("llama")
    with recorded(model) as apart:
        run(model, IDS[:1])
        run(model, IDS[1:2])
    with recorded(model) as in_turns:
        caches = [run(model, IDS[n : n + 1, :4], use_cache=True)[CACHE] for n in (0, 1)]
        for start, stop in ((4, 6), (6, 9)):
            for n in (0, 1):
                run(model, IDS[n : n + 1, start:stop], **{CACHE: caches[n]})
    assert in_turns.counts == [9, 9]
    torch.testing.assert_close(in_turns.means, apart.means, rtol=1e-4, atol=1e-5)


def test_a_row_that_has_ended_counts_neither_its_end_token_nor_the_filling():
    model = tiny_model("llama")
    made = generated(model, new=6)
    end = int(made[0, IDS.shape[1] + 2])  # the third token of the first row, from now on an end
    after_BT = made[:, IDS.shape[1] :]
    wanted = [min([5, *(n for n in range(5) if int(row[n]) == end)]) for row in after_BT]
    with recorded(model, tokens="generated", end_tokens=[end]) as record:
        generated(model, new=6)
    assert record.counts == wanted
    assert wanted[0] <= 2
    model.generation_config.eos_token_id = end
    with recorded(model, tokens="generated") as by_config:
        model.generate(input_ids=IDS, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert by_config.counts == wanted


@pytest.mark.parametrize("outside", ["steered", "recorded"])
def test_the_steered_stream_is_recorded_whichever_context_was_entered_first(outside):
    model, push = tiny_model("llama"), [Addition(1, V, 3.0)]
    with recorded(model) as plain:
        run(model)
    if outside == "steered":
        with steered(model, push) as steering, recorded(model) as record:
            run(model)
    else:
        with recorded(model) as record, steered(model, push) as steering:
            run(model)
    assert steering.firing().slots == {1: 27}
    torch.testing.assert_close(record.means[:, 0], plain.means[:, 0])
    torch.testing.assert_close(record.means[:, 1], plain.means[:, 1] + 3.0 * V)


def test_recording_changes_no_logit():
    model = tiny_model("llama")
    before = run(model).logits
    with recorded(model, probes=[Probe(2, V)]):
        assert torch.equal(run(model).logits, before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_hooks_are_gone_after_an_error_and_a_broken_pass_leaves_no_row(error):
    model = tiny_model("llama")

    def fail(_module, _args):
        raise error

    with recorded(model) as record:
        run(model)
        handle = model.model.layers[2].register_forward_pre_hook(fail)
        with pytest.raises(error):
            run(model)
        handle.remove()
        assert record.counts == [9, 9, 9]
        run(model, IDS[:1])
    assert record.counts == [9, 9, 9, 9]
    torch.testing.assert_close(record.means[3], record.means[0])
    with pytest.raises(error), recorded(model):
        raise error
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_sums_of_bfloat16_streams_are_made_in_float32():
    model = tiny_model("llama").to(torch.bfloat16)
    with recorded(model) as record:
        run(model)
    wanted_BLD = block_outputs(model).float().mean(2).transpose(0, 1)
    assert record.means.dtype == torch.float32
    torch.testing.assert_close(record.means, wanted_BLD)


def test_tensors_over_tokens_and_hidden_do_not_stay():
    """Memory is [layer, row, hidden]: a block's output is freed as soon as the next has run."""
    model, alive = tiny_model("llama"), []

    def count(_module, _args, output):
        gc.collect()
        alive.append(sum(ref() is not None for ref in refs))
        refs.append(weakref.ref(output))

    refs = []
    with recorded(model):
        for block in model.model.layers:
            block.register_forward_hook(count)
        run(model)
    assert max(alive) <= 1  # the input of the block at work


def test_a_compiled_model_is_recorded_too():
    model = tiny_model("llama")
    with recorded(model) as plain:
        run(model)
    compiled = torch.compile(model, backend="eager")
    with recorded(compiled) as record:
        run(compiled)
    assert torch.equal(record.means, plain.means)


def test_a_pass_inside_inference_mode_goes_on_outside_of_it():
    model = tiny_model("llama")
    with recorded(model) as record:
        with torch.inference_mode():
            first = model(input_ids=IDS[:, :5], use_cache=True)
        made = generated(model, new=2)
    assert first.logits.shape[1] == 5
    assert made.shape[1] == 11
    assert record.counts == [5] * 3 + [10] * 3


def test_means_off_hooks_the_probed_layers_only():
    model = tiny_model("llama")
    with recorded(model, means=False, probes=[Probe(2, V)]) as record:
        hooked = [n for n, block in enumerate(model.model.layers) if block._forward_hooks]
        run(model)
    assert hooked == [2]
    torch.testing.assert_close(torch.stack(record.projections)[..., 0], block_outputs(model)[2] @ V)
    with pytest.raises(UsageError, match="means=True"):
        record.means  # noqa: B018


def test_a_mean_of_no_tokens_is_refused():
    model = tiny_model("llama")
    with recorded(model, tokens="generated") as record:
        with pytest.raises(TooFewSamplesError, match="no forward pass"):
            record.means  # noqa: B018
        run(model)
    assert record.counts == [0, 0, 0]
    with pytest.raises(TooFewSamplesError, match=r"rows \[0, 1, 2\] have no counted token"):
        record.means  # noqa: B018


def test_beam_search_is_refused_not_recorded_wrongly():
    model = tiny_model("llama")
    with recorded(model), pytest.raises(UsageError, match="beam_search.*num_beams=1"):
        model.generate(input_ids=IDS, max_new_tokens=4, num_beams=2, do_sample=False)


def test_a_cache_that_is_rewound_is_refused():
    model = tiny_model("llama")
    with recorded(model):
        cache = run(model, use_cache=True)[CACHE]
        run(model, IDS[:, :1], **{CACHE: cache})
        cache.crop(-5)
        with pytest.raises(UsageError, match="token 5 of its cache, expected 3 rows at token 10"):
            run(model, IDS[:, :1], **{CACHE: cache})


def test_a_layer_that_is_passed_by_is_reported():
    model = tiny_model("llama")
    with recorded(model), pytest.raises(NotAppliedError, match=r"past layers \[1\]"):
        model.model.layers[1] = tiny_model("llama").model.layers[1]
        run(model)


def test_streams_that_the_config_does_not_name_are_refused():
    class Streams(torch.nn.Module):
        def forward(self, hidden, **_):
            return torch.stack([hidden, hidden])

    model = tiny_model("llama")
    model.model.layers[1] = Streams()
    with recorded(model), pytest.raises(ModelLayoutError, match="as many as the config names"):
        run(model)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (Probe(4, V), "layer 4, but the model's blocks are 0 to 3"),
        (Probe(-1, V), "layer -1"),
        (Probe(1, unit(torch.ones(64))), "64 numbers.*has 32"),
        (Probe(1, 2 * V), "norm 2, expected 1"),
    ],
)
def test_a_probe_that_does_not_fit_is_refused(probe, message):
    model = tiny_model("llama")
    with pytest.raises(UsageError, match=message), recorded(model, probes=[probe]):
        pass


def test_a_mask_of_another_batch_is_refused():
    model = tiny_model("llama")
    mask = torch.ones(2, 9, dtype=torch.bool)
    with recorded(model, mask=mask), pytest.raises(UsageError, match="mask has 2 rows"):
        run(model)


def test_it_stands_at_the_front_door():
    assert keel.recorded is recorded
