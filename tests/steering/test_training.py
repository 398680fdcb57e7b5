"""A model trained under a floor: gradients flow through what the floor did, checkpointed or not."""

import pytest
import torch

from keel.errors import UsageError
from keel.geometry import unit
from keel.steering import PassTokens, recorded, steered
from keel.testing import tiny_model
from keel.types import Floor

V = unit(torch.randn(32, generator=torch.Generator().manual_seed(0)))
FLOORS = [Floor(1, V, 1.0), Floor(2, V, 1.0)]
IDS = torch.randint(10, 90, (3, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(IDS)
MASK[0, :4] = 0


def trained(family: str, checkpoint: dict | None):
    model = tiny_model(family).train()
    if checkpoint is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpoint)
        model.enable_input_require_grads()
    return model


def gradients(model, floors):
    """Gradient of the loss by each parameter, and what was counted on the way."""
    model.zero_grad()
    with steered(model, floors) as steering:
        model(input_ids=IDS, attention_mask=MASK, labels=IDS).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters()}, steering.firing()


@pytest.mark.parametrize("is_reentrant", [False, True])
@pytest.mark.parametrize("tokens", ["all", "prompt", "generated"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.filterwarnings("ignore:.*use_reentrant")
def test_checkpointing_changes_neither_gradients_nor_counts(family, is_reentrant, tokens):
    """Once, a block that backward ran again was refused as one that runs outside of its model."""
    floors = [Floor(n, V, 1.0, tokens=tokens) for n in (1, 2)]
    plain, counted = gradients(trained(family, None), floors)
    ours, again = gradients(trained(family, {"use_reentrant": is_reentrant}), floors)
    assert again == counted
    assert counted.slots == {1: 23, 2: 23}
    assert (counted.rate > 0) == (tokens != "generated")
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, msg=lambda m, name=name: f"{name}: {m}")


def test_gradients_are_those_of_finite_differences():
    model = trained("llama", {"use_reentrant": False}).double()
    weight = model.model.layers[0].mlp.down_proj.weight
    push = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)).double()
    with steered(model, FLOORS):
        model(input_ids=IDS, labels=IDS).loss.backward()
        slope = float((weight.grad * push).sum())
        sides, step = [], 1e-3
        with torch.no_grad():
            for sign in (1, -1):
                weight += sign * step * push
                sides.append(float(model(input_ids=IDS, labels=IDS).loss))
                weight -= sign * step * push
    # The floor works in float32 (2^-24 of values of about 1), divided by a step of 1e-3.
    assert slope == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=5e-3, abs=1e-3)


def test_a_whole_model_that_backward_runs_again_is_steered_again_and_counted_once():
    model = tiny_model("llama").train()
    embeds = model.get_input_embeddings()(IDS).detach().requires_grad_()

    def loss(x):
        return model(inputs_embeds=x, use_cache=False).logits.logsumexp(-1).sum()

    slopes, counts = [], []
    for run in (loss, lambda x: torch.utils.checkpoint.checkpoint(loss, x, use_reentrant=False)):
        with steered(model, FLOORS) as steering:
            slopes.append(torch.autograd.grad(run(embeds), embeds)[0])
        counts.append(steering.firing())
    torch.testing.assert_close(slopes[0], slopes[1])
    assert counts[0] == counts[1]


def test_a_mask_of_its_own_is_refused_where_backward_could_not_know_it():
    model = trained("llama", {"use_reentrant": False})
    with steered(model, [Floor(1, V, 1.0, tokens="generated")]) as steering:
        steering.marked = PassTokens(IDS.numel(), is_generated=IDS > 40)
        loss = model(input_ids=IDS, labels=IDS).loss
        with pytest.raises(UsageError, match="layer 1 act on some tokens only.*checkpointing off"):
            loss.backward()


def test_what_backward_runs_again_is_recorded_once_and_keeps_no_graph():
    plain, again = tiny_model("llama"), trained("llama", {"use_reentrant": False})
    with recorded(plain) as record, torch.no_grad():
        plain(input_ids=IDS)
    with recorded(again) as ours:
        again(input_ids=IDS, labels=IDS).loss.backward()
    assert ours.counts == record.counts
    assert not ours.means.requires_grad
    torch.testing.assert_close(ours.means, record.means)
