"""What the self-test tries out in a worker: moving a layer's outputs against each other must not
show in what the model gives, if the stream is what Keel takes it for."""

import pytest
import torch
from torch import nn

from keel.engines.vllm.core import CoreState
from keel.engines.vllm.deployment import Deployment
from keel.errors import ModelLayoutError, NotAppliedError, NotFiniteError
from tests.engines.vllm.toys import (
    HIDDEN,
    ToyLayer,
    ToyModel,
    compute,
    hold,
    request,
    scheduled,
    tokens,
)

PLAIN = Deployment(None, settings=2)
SOUND, WRONG = 1e-5, 0.25


class AddingLayer(ToyLayer):
    """Has added its residual already; what it returns second is read by nobody."""

    def forward(self, hidden, residual):
        residual = hidden
        return residual + torch.tanh(self.mix(hidden)), residual


class LoneLayer(ToyLayer):
    """Returns its stream alone."""

    def forward(self, hidden, residual):
        return hidden + torch.tanh(self.mix(hidden))


class NormedModel(ToyModel):
    """Layers of a class, then a final norm; `read` says what it is given of the last's outputs."""

    def __init__(self, kind=ToyLayer, read=lambda hidden, residual: hidden + residual):
        super().__init__()
        self.layers = nn.ModuleList(kind() for _ in range(3))
        self.norm, self.read = nn.LayerNorm(HIDDEN), read

    def forward(self, stream):
        hidden, residual = stream, None
        with torch.no_grad():
            for layer in self.layers:
                output = layer(hidden, residual)
                hidden, residual = output if isinstance(output, tuple) else (output, None)
            return self.norm(self.read(hidden, residual))


def first(hidden, residual):
    return hidden


def passed(held, method, *arguments):
    """What a trial says after one pass over the same prompt."""
    held.call(method, *arguments)
    held.note_requests(scheduled(request("a", 5), finished=["a"]))
    compute(held, ("a", 0, tokens(5)))
    return held.call("looked" if method == "look" else "moved")


def held_model(kind, read, *, is_sum):
    """A worker's hold on such a model, as if its source had said whether the stream is a sum."""
    held = hold(PLAIN, NormedModel(kind, read))
    for layer in held.layers.values():
        layer.is_sum = is_sum
    return held


@pytest.mark.parametrize(
    ("kind", "read", "is_sum", "is_right"),
    [
        (ToyLayer, lambda hidden, residual: hidden + residual, True, True),
        (ToyLayer, lambda hidden, residual: hidden + residual, False, False),
        (AddingLayer, first, False, True),
        (AddingLayer, first, True, False),
    ],
    ids=[
        "a sum held as a sum",
        "a sum held as first",
        "first held as first",
        "first held as a sum",
    ],
)
def test_moving_two_outputs_against_each_other_shows_where_the_stream_is_another(
    kind, read, is_sum, is_right
):
    held = held_model(kind, read, is_sum=is_sum)
    look = passed(held, "look")
    assert look.pairs == {kind.__name__}
    push, gauge = passed(held, "push", kind.__name__), passed(held, "gauge", kind.__name__)
    assert push > 0.1
    assert gauge / push < SOUND if is_right else gauge / push > WRONG


def test_a_pass_after_a_trial_is_as_one_before():
    held = hold(PLAIN, NormedModel())
    plain = held.model(tokens(5))
    passed(held, "look")
    passed(held, "push", "ToyLayer")
    assert torch.equal(held.model(tokens(5)), plain)
    assert not held.model._forward_hooks
    assert not held.model.norm._forward_pre_hooks


def test_the_lengths_of_the_longest_streams_are_known_from_the_look():
    held = hold(PLAIN, NormedModel(LoneLayer, first))
    look = passed(held, "look")
    stream = tokens(5)
    with torch.no_grad():
        for number, layer in enumerate(held.model.layers):
            stream = layer(stream, None)
            assert look.norms[number] == pytest.approx(float(stream.norm(dim=-1).max()))


@pytest.mark.parametrize(
    ("read", "gap"),
    [(first, 0.0), (lambda hidden, residual: 2 * hidden, 1.0)],
    ids=["the stream", "twice the stream"],
)
def test_what_the_final_norm_is_given_is_compared_with_the_last_stream(read, gap):
    look = passed(hold(PLAIN, NormedModel(LoneLayer, read)), "look")
    assert look.reader_gap == pytest.approx(gap, abs=1e-6)


def test_layers_that_ran_in_a_graph_cannot_be_tried_out_and_the_remedy_is_named():
    held = hold(PLAIN, NormedModel())
    held.call("look")
    with pytest.raises(NotAppliedError, match="eager=true"):
        held.call("looked")


class ToyCore:
    """An engine core whose prompts pass through workers of this process."""

    def __init__(self, *workers):
        self.workers = workers

    def collective_rpc(self, _method, _timeout, call):
        return [worker.call(*call) for worker in self.workers]


class ToyState(CoreState):
    """Answers by one pass in each worker."""

    def answer(self, name, *, new_tokens=4):
        for worker in self.core.workers:
            worker.note_requests(scheduled(request("a", 5), finished=["a"]))
            compute(worker, ("a", 0, tokens(5)))
        return []


def checked(*workers):
    state = ToyState(ToyCore(*workers), PLAIN)
    state.check_streams()
    return state


class MassiveLayer(LoneLayer):
    """Its stream is as long as some large models' first token's."""

    def forward(self, hidden, residual):
        return 1e3 * hidden


def test_the_floor_of_the_self_test_is_far_above_the_longest_stream():
    """It was 1e4, which massive activations can stand above: a sound engine would refuse."""
    held = hold(PLAIN, NormedModel(MassiveLayer, first))
    state = checked(held)
    longest = float(1e9 * tokens(5).norm(dim=-1).max())
    assert state.height == pytest.approx(10 * longest)


def test_a_model_that_predicts_nan_is_refused_for_that():
    held = hold(PLAIN, NormedModel())
    with torch.no_grad():
        held.model.norm.weight.fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="predicts NaN or Inf, with no setting at work"):
        checked(held)


def test_layers_held_at_another_stream_than_is_read_are_refused():
    with pytest.raises(ModelLayoutError, match=r"of AddingLayer's two outputs"):
        checked(held_model(AddingLayer, first, is_sum=True))
    with pytest.raises(ModelLayoutError, match="read after the last layer"):
        checked(hold(PLAIN, NormedModel(LoneLayer, lambda hidden, _: 2 * hidden)))


def test_parts_of_a_stream_that_are_added_up_later_are_refused():
    """Of two processes with a half of each layer's weights, neither has the whole output."""
    halves = [hold(PLAIN, NormedModel()) for _ in range(2)]
    with torch.no_grad():
        for layer in halves[1].model.layers:
            layer.mix.weight.mul_(-1)
    with pytest.raises(ModelLayoutError, match=r"2 processes hold parts of layer 0's stream"):
        checked(*halves)
    assert checked(*[hold(PLAIN, NormedModel()) for _ in range(2)]).height > 0


def test_a_float16_model_that_may_divide_its_stream_is_refused_in_float16_only():
    class ScaledLayer(ToyLayer):
        def forward(self, hidden, residual):
            if hidden.dtype == torch.float16:
                hidden = hidden / 2.5
            return super().forward(hidden, residual)

    from keel.engines.vllm.worker import WorkerState

    shape = {"layers": 3, "hidden": HIDDEN, "max_tokens": 8, "device": torch.device("cpu")}
    with pytest.raises(ModelLayoutError, match="ScaledLayer computes otherwise in float16"):
        WorkerState(NormedModel(ScaledLayer), PLAIN, dtype=torch.float16, **shape)
    WorkerState(NormedModel(ScaledLayer), PLAIN, dtype=torch.bfloat16, **shape)


class CompiledWhole(NormedModel):
    """Called as vLLM calls a class that it compiles as a whole: past torch's hooks."""

    def __call__(self, stream):
        return self.forward(stream)


def test_a_model_that_runs_past_torchs_hooks_is_tried_out_all_the_same():
    """ERNIE 4.5's: what it gave was not seen, and the engine did not start."""
    held = hold(PLAIN, CompiledWhole())
    assert passed(held, "look").is_finite
    assert passed(held, "push", "ToyLayer") > WRONG
    assert passed(held, "gauge", "ToyLayer") < SOUND
    assert "forward" not in vars(held.model)
