"""Models with several residual streams: equation 1 holds on the stream that Keel defines."""

from collections import namedtuple

import pytest
import torch

from keel.engines import Probe, Recording
from keel.errors import ModelLayoutError
from keel.geometry import unit
from keel.steering import find_decoder, steered
from keel.steering.streams import StreamLayout
from keel.testing import tiny_model
from keel.types import Floor
from tests.engines.small import answered, answers, engine
from tests.reference.streams import moved, residual_stream

FAMILIES = ("deepseek_v4", "hy_v4", "glm5_next", "qwen4_exp", "gemma3n")
IDS = torch.randint(10, 90, (3, 9), generator=torch.Generator().manual_seed(1))
V = unit(torch.randn(32, generator=torch.Generator().manual_seed(2)))
LEAST = 0.5


def capped_by_hand(model, kept):
    """A hook with equation 1 in plain arithmetic on the stream written out by hand."""

    def hook(_block, _args, output):
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        projections_BT = residual_stream(model, hidden) @ V
        lacking_BT = (LEAST - projections_BT).clamp_min(0)
        hidden = moved(model, hidden, lacking_BT[..., None] * V)
        kept.append(residual_stream(model, hidden) @ V)
        return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

    return hook


@pytest.mark.parametrize("family", FAMILIES)
def test_a_floor_is_equation_1_on_the_stream(family):
    model, kept = tiny_model(family), []
    with torch.no_grad():
        plain = model(IDS).logits
        handles = [
            find_decoder(model).blocks[layer].register_forward_hook(capped_by_hand(model, kept))
            for layer in (1, 2)
        ]
        by_hand = model(IDS).logits
        for handle in handles:
            handle.remove()
        with steered(model, [Floor(1, V, LEAST), Floor(2, V, LEAST)]) as steering:
            capped = model(IDS).logits
    assert 0.1 < steering.firing().rate < 0.9
    assert all(bool((projections_BT >= LEAST - 1e-5).all()) for projections_BT in kept)
    assert float((by_hand - plain).abs().max()) > 0.01
    torch.testing.assert_close(capped, by_hand, atol=1e-4, rtol=1e-4)


# Rows of a linear layer's cache cannot be selected in transformers 5.19.
@pytest.mark.parametrize("family", ["deepseek_v4", "hy_v4", "gemma3n"])
def test_what_is_read_is_projected_by_hand(family):
    """Generated, capped and recorded in one pass; read again; projected by the test itself."""
    made, floors = engine(family), [Floor(1, V, LEAST)]
    recording = Recording(probes=(Probe(1, V),))
    done = answers(made, interventions=floors, recording=recording)
    kept = []
    made.decoder.blocks[1].register_forward_hook(capped_by_hand(made.model, kept))
    for conversation, completion in zip(answered(done), done, strict=True):
        if not completion.token_ids:
            continue
        (turn,) = made.template.transcript(conversation).turns
        ids = torch.tensor([made.template.transcript(conversation).token_ids])
        with torch.no_grad():
            made.model(ids)
        by_hand_T = kept.pop()[0, turn.start : turn.stop]
        torch.testing.assert_close(completion.projections_TK[:, 0], by_hand_T, atol=2e-4, rtol=1e-3)


def test_a_step_of_one_token_with_as_many_rows_as_streams_is_read_along_the_right_axis():
    model = tiny_model("gemma3n")  # 3 streams in front of 3 rows
    with torch.no_grad(), steered(model, [Floor(1, V, 1e3)]) as steering:
        model.generate(input_ids=IDS, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert steering.firing().fired == {1: 3 * (9 + 2)}


def test_a_block_that_returns_streams_by_name_is_refused():
    """Reformer's blocks return two streams, of which the next block adds each to the other."""
    returned = namedtuple("ReformerOutput", ["hidden_states", "attn_output"])
    hidden = torch.zeros(1, 3, 8)
    with pytest.raises(ModelLayoutError, match="hidden_states, attn_output"):
        StreamLayout(8).stream_in(returned(hidden, hidden))
