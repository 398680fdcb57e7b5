"""What a floor promises, on every family of architecture: random weights, real code."""

import pytest
import torch

from keel.geometry import unit
from keel.steering import Ablation, Addition, Ceiling, find_decoder, steered
from keel.testing import TINY_FAMILIES, tiny_model
from keel.types import Floor

HIDDEN = 32
IDS = torch.randint(10, 90, (3, 9), generator=torch.Generator().manual_seed(1))


def direction(seed: int = 0):
    return unit(torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed)))


def band(value: float, **more):
    return [Floor(layer, direction(layer), value, **more) for layer in (1, 2)]


def streams(model, run):
    """The output of each block at each forward pass while `run` runs."""
    seen, handles, decoder = {}, [], find_decoder(model)
    for layer, block in enumerate(decoder.blocks):
        kept = seen.setdefault(layer, [])
        handles.append(
            block.register_forward_hook(
                lambda _m, _a, out, kept=kept: kept.append(
                    decoder.layout.stream_in(out).detach().clone()
                )
            )
        )
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return seen


def logits(model, ids=IDS, **more):
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


@pytest.mark.parametrize("family", TINY_FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_floor_nobody_is_under_changes_no_logit(family, dtype):
    model = tiny_model(family).to(dtype)
    before = logits(model)
    with steered(model, band(-1e6)) as steering:
        assert torch.equal(logits(model), before)
    assert steering.firing().rate == 0
    assert steering.firing().slots == {1: IDS.numel(), 2: IDS.numel()}


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_a_floor_holds_at_every_token_prompt_and_generated(family):
    model = tiny_model(family)
    floors = band(3.0)
    with steered(model, floors):
        seen = streams(
            model, lambda: model.generate(input_ids=IDS, max_new_tokens=5, do_sample=False)
        )
    for floor in floors:
        passes = seen[floor.layer]
        assert [p.shape[1] for p in passes] == [IDS.shape[1], 1, 1, 1, 1]
        lowest = min(float((p @ floor.direction).min()) for p in passes)
        assert lowest == pytest.approx(3.0, rel=1e-3)


def test_a_floor_holds_in_bfloat16_to_one_rounding():
    model = tiny_model("llama").to(torch.bfloat16)
    floor = Floor(1, direction(), 3.0)
    with steered(model, [floor]):
        seen = streams(model, lambda: logits(model))[1][0].float()
    # Rounding each of the numbers of h to bfloat16 moves it by at most 2^-8 of itself.
    slack = (seen.abs() * direction().abs()).sum(-1) * 2**-8
    assert bool((seen @ floor.direction >= 3.0 - slack).all())


def test_thresholds_meet_float32_numbers_and_h_is_rounded_once():
    """Two floors at a layer of a bfloat16 model, against the same sum in float64."""
    model = tiny_model("llama").to(torch.bfloat16)
    floors = [Floor(1, direction(seed), 3.0) for seed in (0, 1)]
    plain = streams(model, lambda: logits(model))[1][0]
    with steered(model, floors):
        ours = streams(model, lambda: logits(model))[1][0]
    expected = plain.double()
    for v in (floor.direction.double() for floor in floors):
        expected = expected + (3.0 - expected @ v).clamp_min(0)[..., None] * v
    assert ours.dtype == torch.bfloat16
    # float32's own error flips the rounding of about one number in 2^16; bfloat16's of one in 4.
    assert float((ours == expected.to(torch.bfloat16)).float().mean()) > 0.99


def test_capping_twice_is_capping_once():
    model = tiny_model("llama")
    with steered(model, band(2.0)):
        once = logits(model)
    with steered(model, band(2.0) + band(2.0)):
        assert torch.allclose(logits(model), once, atol=1e-5)


def test_components_orthogonal_to_the_direction_are_unchanged():
    model = tiny_model("llama")
    v = direction()
    plain = streams(model, lambda: logits(model))[1][0]
    with steered(model, [Floor(1, v, 5.0)]):
        capped = streams(model, lambda: logits(model))[1][0]
    rest = [h - (h @ v)[..., None] * v for h in (plain, capped)]
    assert torch.allclose(rest[0], rest[1], atol=1e-5)
    assert not torch.allclose(plain, capped, atol=1e-2)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_cached_equals_uncached(family):
    model = tiny_model(family)
    with steered(model, band(1.0)):
        made = model.generate(
            input_ids=IDS,
            max_new_tokens=4,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        whole = logits(model, made.sequences[:, :-1])[:, IDS.shape[1] - 1 :]
    assert torch.allclose(torch.stack(made.logits, 1), whole, atol=2e-4)


def test_static_cache_equals_dynamic_cache():
    model = tiny_model("llama")
    with steered(model, band(1.0)) as steering:
        dynamic = model.generate(input_ids=IDS, max_new_tokens=6, do_sample=False)
        once = steering.firing()
        static = model.generate(
            input_ids=IDS, max_new_tokens=6, do_sample=False, cache_implementation="static"
        )
    assert torch.equal(dynamic, static)
    assert steering.firing() == once + once


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_left_padding_changes_nothing_and_is_not_counted(family):
    model = tiny_model(family)
    pads = torch.zeros(3, 4, dtype=torch.long)
    padded = torch.cat([pads, IDS], 1)
    mask = torch.cat([pads, torch.ones_like(IDS)], 1)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with steered(model, band(1.0)) as steering:
        alone = logits(model)
        fired = steering.firing()
    with steered(model, band(1.0)) as steering:
        out = logits(model, padded, attention_mask=mask, position_ids=positions)
        assert steering.firing() == fired
    assert torch.allclose(out[:, 4:], alone, atol=2e-4)


def test_left_padding_is_not_counted_under_a_static_cache():
    model = tiny_model("llama")
    mask = torch.ones_like(IDS)
    mask[0, :4] = 0
    with steered(model, band(1.0)) as steering:
        model.generate(
            input_ids=IDS,
            attention_mask=mask,
            max_new_tokens=3,
            min_new_tokens=3,
            do_sample=False,
            cache_implementation="static",
        )
    # 27 prompt tokens less 4 of padding, and 2 passes of 3 generated tokens.
    assert steering.firing().slots == {1: 29, 2: 29}


def test_each_row_of_a_batch_is_capped_as_it_would_be_alone():
    model = tiny_model("llama")
    with steered(model, band(1.0)):
        together = logits(model)
        alone = torch.cat([logits(model, row[None]) for row in IDS])
    assert torch.allclose(together, alone, atol=1e-5)


def test_prompt_only_and_generated_only_split_the_tokens():
    model = tiny_model("llama")
    slots = {}
    for tokens in ("all", "prompt", "generated"):
        with steered(model, band(1e3, tokens=tokens)) as steering:
            model.generate(input_ids=IDS, max_new_tokens=5, min_new_tokens=5, do_sample=False)
        slots[tokens] = steering.firing().fired[1]
    # Prompt: 3 × 9 tokens. Generated: 4 of the 5 go back into the model, in 3 rows.
    assert slots == {"all": 39, "prompt": 27, "generated": 12}


def test_not_first_leaves_the_first_token_of_each_row_alone_and_holds_all_others():
    model = tiny_model("llama")
    plain = streams(model, lambda: logits(model))[1][0]
    with steered(model, [Floor(1, direction(), 1e2, tokens="not_first")]):
        held = streams(model, lambda: logits(model))[1][0]
    assert torch.equal(held[:, 0], plain[:, 0])
    heights = held[:, 1:] @ direction()
    assert torch.allclose(heights, torch.full_like(heights, 1e2), rtol=1e-4)


def test_a_ceiling_mirrors_a_floor():
    model = tiny_model("llama")
    with steered(model, [Floor(1, direction(), 2.0)]):
        floored = logits(model)
    with steered(model, [Ceiling(1, -direction(), -2.0)]):
        assert torch.allclose(logits(model), floored, atol=1e-6)


def test_an_addition_moves_every_token_by_its_amount():
    model = tiny_model("llama")
    plain = streams(model, lambda: logits(model))[1][0]
    with steered(model, [Addition(1, direction(), -2.5)]):
        moved = streams(model, lambda: logits(model))[1][0]
    assert torch.allclose(moved, plain - 2.5 * direction(), atol=1e-5)


@pytest.mark.parametrize("to", [0.0, 1.5])
def test_an_ablation_sets_the_component_and_nothing_else(to):
    model = tiny_model("llama")
    v = direction()
    plain = streams(model, lambda: logits(model))[1][0]
    with steered(model, [Ablation(1, v, to)]):
        moved = streams(model, lambda: logits(model))[1][0]
    assert torch.allclose(moved @ v, torch.full(IDS.shape, to), atol=1e-5)
    assert torch.allclose(
        moved - (moved @ v)[..., None] * v, plain - (plain @ v)[..., None] * v, atol=1e-5
    )


def test_a_floor_acts_after_an_addition_however_they_are_given():
    model = tiny_model("llama")
    v = direction()
    for order in ([0, 1], [1, 0]):
        both = [Floor(1, v, 2.0), Addition(1, v, -50.0)]
        with steered(model, [both[n] for n in order]):
            after = streams(model, lambda: logits(model))[1][0]
        assert float((after @ v).min()) == pytest.approx(2.0, rel=1e-4)


def test_several_directions_at_one_layer_act_in_the_order_given():
    model = tiny_model("llama")
    v, w = direction(1), unit(direction(1) + direction(2))
    plain = streams(model, lambda: logits(model))[1][0]
    with steered(model, [Floor(1, v, 4.0), Floor(1, w, 4.0)]):
        both = streams(model, lambda: logits(model))[1][0]
    expected = plain
    for u in (v, w):
        expected = expected + (4.0 - expected @ u).clamp_min(0)[..., None] * u
    assert torch.allclose(both, expected, atol=1e-5)


def test_steering_agrees_with_the_plain_reference():
    from tests.reference.steering import capped

    model = tiny_model("llama")
    v = direction()
    plain = streams(model, lambda: logits(model))[1][0]
    with steered(model, [Floor(1, v, 1.0)]):
        ours = streams(model, lambda: logits(model))[1][0]
    expected = [capped(h.tolist(), (3 * v).tolist(), 1.0) for h in plain.reshape(-1, HIDDEN)]
    assert torch.allclose(ours.reshape(-1, HIDDEN), torch.tensor(expected), atol=1e-5)
    assert bool((plain @ v < 1.0).any())
    assert bool((plain @ v > 1.0).any())
