"""The model is itself again afterwards, and nothing passes the hooks unseen."""

from types import SimpleNamespace

import jaxtyping
import pytest
import torch

from keel.errors import ModelLayoutError, NotAppliedError, NotFiniteError, UsageError
from keel.geometry import unit
from keel.steering import Addition, Probe, find_decoder, recorded, steered
from keel.testing import TINY_FAMILIES, tiny_model
from keel.types import AssistantAxis, Floor, ModelIdentity

IDS = torch.arange(10, 19)[None]
V = unit(torch.randn(32, generator=torch.Generator().manual_seed(0)))
FLOORS = [Floor(1, V, 5.0), Floor(2, V, 5.0)]


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture
def _shapes_unchecked():
    """The compiler would trace the checks of shapes, too."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def model():
    return tiny_model("llama")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_model_is_itself_again_after_an_error_inside(model, error):
    before = logits(model)
    with pytest.raises(error), steered(model, FLOORS):
        logits(model)
        raise error
    assert hooks(model) == 0
    assert torch.equal(logits(model), before)


def test_an_interrupt_in_the_middle_of_a_forward_pass_leaves_no_hook(model):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = logits(model)
    handle = model.model.layers[3].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), steered(model, FLOORS):
        logits(model)
    handle.remove()
    assert hooks(model) == 0
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("layer", [0, 3], ids=["before the floors", "after the floors"])
@pytest.mark.parametrize("part", ["whole", "without its head"])
def test_a_pass_that_broke_off_is_not_held_against_the_next(model, error, layer, part):
    """Once, whoever ran out of memory inside the context and tried a smaller batch, or pressed
    Ctrl-C and asked again, was told that tokens had gone past the hooks."""

    def break_off(*_):
        raise error

    handle = model.model.layers[layer].register_forward_hook(break_off)
    run = model if part == "whole" else model.model
    with steered(run, FLOORS) as steering:
        with pytest.raises(error):
            run(input_ids=IDS.repeat(4, 1), attention_mask=torch.ones(4, 9))
        handle.remove()
        run(input_ids=IDS)
        # The 9 tokens of the whole pass; of the 36 of the broken one, those that came so far.
        seen = 9 if layer == 0 else 45
        assert steering.firing().slots == {1: seen, 2: seen}


def test_counting_in_the_middle_takes_nothing_away(model):
    with steered(model, FLOORS) as steering:
        for passes in (1, 2):
            logits(model)
            assert steering.firing().slots == {1: 9 * passes, 2: 9 * passes}


def test_tokens_that_passed_unseen_are_still_reported_after_a_pass_that_broke_off(model):
    def break_off(*_):
        raise RuntimeError

    with pytest.raises(NotAppliedError, match="layer 1 saw 0 of 9 tokens"), steered(model, FLOORS):
        model.model.layers[1] = tiny_model("llama").model.layers[1]
        logits(model)
        model.model.layers[3].register_forward_hook(break_off)
        with pytest.raises(RuntimeError):
            logits(model)


def test_contexts_nest_and_each_takes_away_only_its_own(model):
    with steered(model, FLOORS[:1]):
        outer = logits(model)
        with steered(model, FLOORS[1:]):
            assert not torch.equal(logits(model), outer)
        assert torch.equal(logits(model), outer)


def test_hooks_of_others_survive(model):
    seen = []
    model.model.layers[1].register_forward_hook(lambda *_: seen.append(1))
    with steered(model, FLOORS):
        logits(model)
    logits(model)
    assert seen == [1, 1]


@pytest.mark.parametrize("layer", [-1, 4, 9])
def test_a_layer_that_the_model_lacks_is_refused_and_leaves_no_hook(model, layer):
    """A negative one, too: nothing is counted from the end."""
    floors = [*FLOORS, Floor(layer, V, 0.0)]
    with pytest.raises(UsageError, match=rf"layer {layer},.*0 to 3"), steered(model, floors):
        pass
    assert hooks(model) == 0


def test_a_direction_of_another_width_is_refused(model):
    wide = Floor(1, unit(torch.ones(64)), 0.0)
    with pytest.raises(UsageError, match=r"64 numbers.*has 32"), steered(model, [wide]):
        pass


def test_a_direction_that_is_not_unit_is_refused():
    with pytest.raises(UsageError, match=r"norm 2, expected 1; pass unit"):
        Floor(1, 2 * V, 0.0)


@pytest.mark.parametrize("value", [float("nan")])
def test_a_floor_that_is_not_a_number_is_refused(value):
    with pytest.raises(NotFiniteError):
        Floor(1, V, value)


def test_a_direction_with_nan_is_refused():
    with pytest.raises(NotFiniteError):
        Floor(1, torch.full((32,), torch.nan), 0.0)


def test_tokens_that_pass_a_layer_unseen_are_reported(model):
    """A block swapped after entry runs without our hook: the context refuses to end quietly."""
    with pytest.raises(NotAppliedError, match="layer 1 saw 0 of 9 tokens"), steered(model, FLOORS):
        model.model.layers[1] = tiny_model("llama").model.layers[1]
        logits(model)


def test_a_block_that_runs_twice_in_a_pass_is_named_a_loop(model):
    block = model.model.layers[1]
    model.model.layers[2].forward = lambda hidden, **more: block(hidden, **more)
    message = "saw 18 of 9 tokens; the block runs more than once"
    with pytest.raises(NotAppliedError, match=message), steered(model, FLOORS[:1]):
        logits(model)


def test_streams_that_the_config_does_not_name_are_refused(model):
    class Streams(torch.nn.Module):
        def forward(self, hidden, **_):
            return torch.stack([hidden, hidden])

    model.model.layers[1] = Streams()
    with (
        pytest.raises(ModelLayoutError, match="as many as the config names"),
        steered(model, FLOORS),
    ):
        logits(model)


class OldStack(torch.nn.Module):
    """Blocks that return a tuple, as those of older models and of models with own code do."""

    class Block(torch.nn.Module):
        def forward(self, hidden):
            return hidden + 1, "cache", "weights"

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([self.Block(), self.Block()])
        self.config = SimpleNamespace(hidden_size=32)

    def forward(self, hidden_states):
        for block in self.blocks:
            hidden_states, *rest = block(hidden_states)
        return hidden_states, rest


def test_what_a_block_returns_beside_the_stream_is_left_to_it():
    old = OldStack()
    with steered(old, [Floor(1, V, 5.0)], blocks="blocks"):
        hidden, rest = old(hidden_states=torch.zeros(1, 4, 32))
    assert rest == ["cache", "weights"]
    assert torch.allclose(hidden @ V, torch.full((1, 4), 5.0))


@pytest.mark.usefixtures("_shapes_unchecked")
@pytest.mark.parametrize("way", ["wrapped", "in place"])
def test_a_compiled_model_is_capped_and_then_itself_again(model, way):
    """torch.compile does not look at hooks again: a graph made before entry would run uncapped,
    one made inside would stay capped."""
    plain = logits(model)
    with steered(model, FLOORS):
        capped = logits(model)
    if way == "wrapped":
        compiled = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
        compiled = model
    assert torch.allclose(logits(compiled), plain, atol=1e-5)
    with steered(compiled, FLOORS) as steering:
        assert torch.allclose(logits(compiled), capped, atol=1e-5)
        assert steering.firing().slots == {1: 9, 2: 9}
    assert torch.allclose(logits(compiled), plain, atol=1e-5)


@pytest.mark.usefixtures("_shapes_unchecked")
def test_a_compiled_graph_that_skips_the_hooks_is_reported(model, monkeypatch):
    monkeypatch.setattr("keel.steering.apply._forget_compiled", lambda: None)
    compiled = torch.compile(model, backend="eager")
    logits(compiled)
    with pytest.raises(NotAppliedError, match="not through its hooks"), steered(compiled, FLOORS):
        logits(compiled)


def test_strength_is_in_units_of_the_residual_norm():
    axis = AssistantAxis(
        vector=torch.stack([V, 2 * V]),
        layer=1,
        default_projection=torch.ones(2),
        role_projection=torch.zeros(2),
        residual_norm=torch.tensor([10.0, 40.0]),
        identity=ModelIdentity("m", 2, 32),
    )
    # A quarter of a norm of 40, whatever the length of the stored vector.
    step = Addition.along(axis, -0.25)
    assert step.amount == pytest.approx(-10.0)
    assert torch.allclose(step.direction, V)


def test_a_device_mapped_model_is_capped(model):
    accelerate = pytest.importorskip("accelerate")
    with steered(model, FLOORS):
        capped = logits(model)
    places = {
        "model.embed_tokens": "cpu",
        "model.norm": "cpu",
        "lm_head": "cpu",
        "model.rotary_emb": "cpu",
        **{f"model.layers.{n}": "cpu" for n in range(4)},
    }
    mapped = accelerate.dispatch_model(model, places, force_hooks=True)
    with steered(mapped, FLOORS):
        assert torch.equal(logits(mapped), capped)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_an_offloaded_model_is_capped_and_recorded(model, where, tmp_path):
    """Once, directions were put where an offloaded block's parameters are: on no device."""
    accelerate = pytest.importorskip("accelerate")
    with steered(model, FLOORS) as steering, recorded(model, probes=[Probe(1, V)]) as record:
        capped = logits(model)
    if where == "cpu":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    assert next(model.model.layers[1].parameters()).device.type == "meta"
    with steered(model, FLOORS) as again, recorded(model, probes=[Probe(1, V)]) as ours:
        assert torch.equal(logits(model), capped)
    assert again.firing() == steering.firing()
    assert torch.equal(ours.means, record.means)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_hidden_states_show_the_floor_though_they_were_used_before(family):
    """transformers hooks the blocks at the first use, so that ours stood behind."""
    model = tiny_model(family)

    def projections(layer):
        with torch.no_grad():
            hidden = model(IDS, output_hidden_states=True).hidden_states[layer + 1]
        return find_decoder(model).layout.stream_in(hidden) @ V

    plain = projections(1)
    order = [list(block._forward_hooks) for block in find_decoder(model).blocks]
    with steered(model, FLOORS):
        with steered(model, [Floor(2, V, 6.0)]):
            assert float(projections(2).min()) == pytest.approx(6.0, rel=1e-4)
        assert float(projections(1).min()) == pytest.approx(5.0, rel=1e-4)
    assert torch.equal(projections(1), plain)
    assert [list(block._forward_hooks) for block in find_decoder(model).blocks] == order


def test_a_floor_holds_behind_what_others_had_hooked_before(model):
    push = model.model.layers[1].register_forward_hook(lambda _m, _a, output: output - 9 * V)
    logits(model)
    model(IDS, output_hidden_states=True)
    with steered(model, FLOORS), torch.no_grad():
        shown = model(IDS, output_hidden_states=True).hidden_states[2] @ V
    push.remove()
    assert float(shown.min()) == pytest.approx(5.0, rel=1e-4)
