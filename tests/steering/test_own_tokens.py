"""Models that run tokens of their own before those given: prompt tuning, CPM-Ant's prefix."""

import pytest
import torch
from torch import nn

from keel.errors import ModelLayoutError
from keel.geometry import unit
from keel.steering import find_decoder, recorded, steered
from keel.testing import shrunken_model, tiny_model
from keel.types import Floor

IDS = torch.randint(10, 90, (2, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(IDS)
MASK[1, :4] = 0
OWN = 5


class PromptTuned(nn.Module):
    """As peft makes a model: learned vectors before the embeddings, and a mask for both."""

    def __init__(self, base):
        super().__init__()
        self.base_model, self.config = base, base.config
        draws = torch.Generator().manual_seed(3)
        self.prompt_PD = torch.randn(OWN, base.config.hidden_size, generator=draws)

    def forward(self, input_ids, attention_mask):
        embedded_BTD = self.base_model.get_input_embeddings()(input_ids)
        own_BPD = self.prompt_PD.expand(len(input_ids), -1, -1)
        mask_BT = torch.cat([torch.ones(len(input_ids), OWN).long(), attention_mask], 1)
        inputs_BTD = torch.cat([own_BPD, embedded_BTD], 1)
        return self.base_model(inputs_embeds=inputs_BTD, attention_mask=mask_BT)


@pytest.fixture
def model():
    return PromptTuned(tiny_model("llama"))


def by_hand(model, floor, where_T):
    """Logits with equation 1 written out at some of the positions that the blocks run."""

    def hold(_block, _args, output):
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        lacking = (floor.value - hidden @ floor.direction).clamp_min(0) * where_T
        held = hidden + lacking[..., None] * floor.direction
        return held if isinstance(output, torch.Tensor) else (held, *output[1:])

    handle = find_decoder(model).blocks[floor.layer].register_forward_hook(hold)
    with torch.no_grad():
        logits = model(IDS, attention_mask=MASK).logits
    handle.remove()
    return logits


@pytest.mark.parametrize("tokens", ["all", "prompt", "not_first"])
def test_learned_prompt_tokens_are_steered_as_part_of_the_prompt(model, tokens):
    floor = Floor(1, unit(torch.ones(32)), 3.0, tokens=tokens)
    with torch.no_grad(), steered(model, [floor]) as steering:
        logits = model(IDS, attention_mask=MASK).logits
    # Two rows of 5 + 9 tokens, of which 4 are padding.
    assert steering.firing().slots == {1: 2 * (OWN + 9) - 4}
    is_real = torch.cat([torch.ones(2, OWN), MASK.float()], 1)[..., None]
    where_T = torch.ones(OWN + 9)
    where_T[0] = tokens != "not_first"
    expected = by_hand(model, floor, where_T)
    torch.testing.assert_close(logits * is_real, expected * is_real)


def test_a_record_of_tokens_that_nobody_gave_is_refused_by_name(model):
    refused = pytest.raises(ModelLayoutError, match="run 14 tokens of the 9 .*prompt tuning")
    with refused, recorded(model), torch.no_grad():
        model(IDS, attention_mask=MASK)


def test_a_model_that_prefixes_its_own_prompt_is_steered_while_it_generates():
    """CPM-Ant is given all tokens at every step, and runs the last behind its cache."""
    model = shrunken_model("cpmant")
    own = model.config.prompt_length
    floor = Floor(1, unit(torch.ones(64)), 1e3, tokens="generated")
    with torch.no_grad(), steered(model, [floor]) as steering:
        model.generate(IDS[:1], max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert steering.firing().slots == {1: own + 9 + 3}
    assert steering.firing().fired == {1: 3}
