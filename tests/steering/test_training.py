"""A model trained under a floor: gradients flow through what the floor did, checkpointed or not."""

from contextlib import contextmanager

import peft
import pytest
import torch
import transformers

from keel.errors import UsageError
from keel.geometry import unit
from keel.steering import PassTokens, recorded, steered
from keel.testing import tiny_model
from keel.types import Floor
from tests.releases import enable_checkpointing

V = unit(torch.randn(32, generator=torch.Generator().manual_seed(0)))
FLOORS = [Floor(1, V, 1.0), Floor(2, V, 1.0)]
IDS = torch.randint(10, 90, (3, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(IDS)
MASK[0, :4] = 0


def checkpointed(model, options: dict | None):
    """The model in training; its blocks are computed again by backward where there are options."""
    if options is not None:
        enable_checkpointing(model, options)
        model.enable_input_require_grads()
    return model.train()


def trained(family: str, checkpoint: dict | None):
    return checkpointed(tiny_model(family), checkpoint)


def adapted(family: str, checkpoint: dict | None):
    """A frozen model with an adapter at every block."""
    config = peft.LoraConfig(r=2, target_modules=["v_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(4)
    return checkpointed(peft.get_peft_model(tiny_model(family), config), checkpoint)


def gradients(model, floors):
    """Gradient of the loss by each parameter, and what was counted on the way."""
    model.zero_grad()
    with steered(model, floors) as steering:
        model(input_ids=IDS, attention_mask=MASK, labels=IDS).loss.backward()
    trained = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    return trained, steering.firing()


@pytest.mark.parametrize("is_reentrant", [False, True])
@pytest.mark.parametrize("tokens", ["all", "prompt", "generated"])
@pytest.mark.parametrize(
    ("made", "family"), [(trained, "llama"), (trained, "gemma3"), (adapted, "llama")]
)
@pytest.mark.filterwarnings("ignore:.*use_reentrant")
def test_checkpointing_changes_neither_gradients_nor_counts(made, family, is_reentrant, tokens):
    """Once, a block that backward ran again was refused as one that runs outside of its model."""
    floors = [Floor(n, V, 1.0, tokens=tokens) for n in (1, 2)]
    plain, counted = gradients(made(family, None), floors)
    ours, again = gradients(made(family, {"use_reentrant": is_reentrant}), floors)
    assert again == counted
    assert counted.slots == {1: 23, 2: 23}
    assert (counted.rate > 0) == (tokens != "generated")
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("made", [trained, adapted])
def test_gradients_are_those_of_finite_differences(made):
    model = made("llama", {"use_reentrant": False}).double()
    weight = next(p for p in model.parameters() if p.requires_grad and p.ndim == 2)
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
    assert abs(slope) > 0.01
    # The floor works in float32 (2^-24 of values of about 1), divided by a step of 1e-3.
    assert slope == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=5e-3, abs=1e-3)


def embedded(model):
    """Embeddings of the text, and a loss by them."""
    embeds = model.get_input_embeddings()(IDS).detach().requires_grad_()

    def loss(x):
        return model(inputs_embeds=x, use_cache=False).logits.logsumexp(-1).sum()

    return embeds, loss


def test_a_whole_model_that_backward_runs_again_is_steered_again_and_counted_once():
    embeds, loss = embedded(model := tiny_model("llama").train())
    slopes, counts = [], []
    for run in (loss, lambda x: torch.utils.checkpoint.checkpoint(loss, x, use_reentrant=False)):
        with steered(model, FLOORS) as steering:
            slopes.append(torch.autograd.grad(run(embeds), embeds)[0])
        counts.append(steering.firing())
    torch.testing.assert_close(slopes[0], slopes[1])
    assert counts[0] == counts[1]


def test_a_mask_of_its_own_is_refused_where_backward_could_not_know_it():
    embeds, loss = embedded(model := tiny_model("llama"))
    with steered(model, [Floor(1, V, 1.0, tokens="generated")]) as steering:
        steering.marked = PassTokens(IDS.numel(), is_generated=IDS > 40)
        total = torch.utils.checkpoint.checkpoint(loss, embeds, use_reentrant=False)
        with pytest.raises(UsageError, match="layer 1 act on some tokens only.*checkpointing off"):
            total.backward()


def test_what_backward_runs_again_is_recorded_once_and_keeps_no_graph():
    plain, again = tiny_model("llama"), trained("llama", {"use_reentrant": False})
    with recorded(plain) as record, torch.no_grad():
        plain(input_ids=IDS)
    with recorded(again) as ours:
        again(input_ids=IDS, labels=IDS).loss.backward()
    assert ours.counts == record.counts
    assert not ours.means.requires_grad
    torch.testing.assert_close(ours.means, record.means)


@contextmanager
def floored_by_hand(model, floors):
    """Equation 1 in a hook of its own."""

    def hook(floor):
        def raised(_block, _args, hidden):
            lacking_BT = (floor.value - hidden @ floor.direction).clamp_min(0)
            return hidden + lacking_BT[..., None] * floor.direction

        return raised

    blocks = model.get_decoder().layers
    handles = [blocks[floor.layer].register_forward_hook(hook(floor)) for floor in floors]
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("checkpoint", [None, {"use_reentrant": False}], ids=["kept", "again"])
@pytest.mark.parametrize("made", [trained, adapted])
def test_a_trainer_trains_under_the_floor(made, checkpoint, tmp_path):
    """Two steps of transformers' own loop end at the weights that equation 1 by hand gives."""
    options = transformers.TrainingArguments(
        tmp_path,
        max_steps=2,
        per_device_train_batch_size=3,
        learning_rate=0.5,
        lr_scheduler_type="constant",
        optim="sgd",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )

    def train(model):
        rows = [{"input_ids": ids, "labels": ids} for ids in IDS]
        transformers.Trainer(model, options, train_dataset=rows).train()
        return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    ours, by_hand, free = (made("llama", c) for c in (checkpoint, None, None))
    with steered(ours, FLOORS) as steering:
        weights = train(ours)
        assert steering.firing().slots == {1: 2 * IDS.numel(), 2: 2 * IDS.numel()}
    with floored_by_hand(by_hand, FLOORS):
        expected = train(by_hand)
    otherwise = train(free)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], msg=lambda m, name=name: f"{name}: {m}")
    assert max(float((expected[n] - otherwise[n]).abs().max()) for n in expected) > 1e-3
