"""What is done to a decoder layer's output: the stream is hidden + residual, and only our own
rows of the tables touch it."""

import importlib.util
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._inductor.utils import run_and_get_code

from keel import geometry
from keel.engines.vllm import layers as checked_layers
from keel.engines.vllm.deployment import Deployment
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.token_book import TRASH
from keel.errors import ModelLayoutError, UsageError
from keel.steering import Ablation, Addition, Ceiling, in_order, steered
from keel.types import Floor
from tests.engines.vllm.toys import (
    CPU,
    HIDDEN,
    direction,
    held_layer,
    rows,
    tokens,
)
from tests.reference.steering import capped

PLAIN = Deployment(None, settings=3, steps=2)
RECORDINGS = 2
FORMS = ["pair", "added already", "lone pair", "tensor", "batch", "batch in a tuple"]
"""The last two as layers of transformers give it, which vLLM runs if it has no class of its own."""
BAND = {
    "floor": [Floor(0, direction(1), 2.0)],
    "ceiling": [Ceiling(0, direction(1), -1.0)],
    "addition": [Addition(0, direction(1), 1.5)],
    "ablation": [Ablation(0, direction(1), 0.25)],
    "two": [Addition(0, direction(1), 4.0), Floor(0, direction(2), 2.0)],
}


def in_form(form, hidden, residual):
    """What a layer returns, and the stream that it means."""
    if form == "pair":
        return (hidden, residual), hidden.float() + residual.float()
    outputs = {
        "tensor": hidden,
        "lone pair": (hidden, None),
        "added already": (hidden, residual),
        "batch": hidden[None],
        "batch in a tuple": (hidden[None], residual[None]),  # which is not added: routers' logits
    }
    return outputs[form], hidden.float()


def stream_of(output, form="pair"):
    hidden, residual = (output, None) if isinstance(output, torch.Tensor) else output
    if hidden.ndim == 3:
        return hidden[0].float()
    is_sum = form == "pair" and residual is not None
    return hidden.float() + residual.float() if is_sum else hidden.float()


def hidden_of(output):
    hidden = output if isinstance(output, torch.Tensor) else output[0]
    return hidden[0] if hidden.ndim == 3 else hidden


def holding(deployment=PLAIN, *, form="pair", **settings):
    """A held layer with these settings in slots 1, 2, ..."""
    held = held_layer(deployment, is_sum=form != "added already")
    for slot, interventions in enumerate(settings.values(), start=1):
        held.write(slot, PackedInterventions.of("x", interventions))
    return held


def one_rounding(output):
    """How far rounding hidden to bfloat16 moves its numbers at most: 2^-8 of themselves."""
    return hidden_of(output).float().abs() * 2**-8


class Passing(nn.Module):
    """A transformer of one block that gives what it is given, for `keel.steering`."""

    config = SimpleNamespace(hidden_size=HIDDEN)

    def __init__(self):
        super().__init__()
        self.block = nn.Identity()

    def forward(self, inputs_embeds):
        return self.block(inputs_embeds)


def by_steering(interventions, stream):
    model = Passing()
    with steered(model, interventions, blocks=[model.block]):
        return model(inputs_embeds=stream[None])[0]


@pytest.mark.parametrize("form", FORMS)
def test_a_floor_is_equation_1_of_the_paper(form):
    output, stream = in_form(form, tokens(20), tokens(20, seed=4))
    held = holding(form=form, one=BAND["floor"])
    held.shared.fill(rows([2] * 20))
    found = stream_of(held(output), form)
    wanted = [capped(h.tolist(), direction(1).tolist(), 2.0) for h in stream]
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-5, atol=1e-5)
    assert not torch.equal(found, stream)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", BAND)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_engines_do_the_same_to_a_stream(name, form, dtype):
    output, stream = in_form(form, tokens(20).to(dtype), tokens(20, seed=4).to(dtype))
    held = holding(form=form, one=BAND[name])
    held.shared.fill(rows([2] * 20))
    found = held(output)
    assert hidden_of(found).dtype == dtype
    slack = 1e-5 if dtype == torch.float32 else one_rounding(found) + 1e-5
    assert bool(((stream_of(found, form) - by_steering(BAND[name], stream)).abs() <= slack).all())


@pytest.mark.parametrize("form", FORMS)
def test_the_output_keeps_its_form_and_its_residual(form):
    output, _ = in_form(form, tokens(4), tokens(4, seed=4))
    held = holding(form=form, one=BAND["floor"])
    held.shared.fill(rows([2] * 4))
    found = held(output)
    assert type(found) is type(output)
    assert hidden_of(found).shape == (4, HIDDEN)
    if isinstance(output, tuple):
        assert found[1] is output[1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_of_row_0_is_unchanged_bit_for_bit(form, dtype):
    output, _ = in_form(form, tokens(6).to(dtype), tokens(6, seed=4).to(dtype))
    held = holding(
        replace(PLAIN, recordings=1, probes=1), form=form, a=BAND["two"], b=BAND["ablation"]
    )
    held.shared.fill(rows([2, 0, 4, 0, 0, 2], recordings=1))
    before = hidden_of(output).clone()
    after = hidden_of(held(output))
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    for row, is_ours in enumerate([True, False, True, False, False, True]):
        assert torch.equal(after[row].view(bits), before[row].view(bits)) is not is_ours


def test_tokens_that_no_map_was_filled_for_are_unchanged():
    """Padding up to a graph's size."""
    held = holding(one=BAND["addition"])
    held.shared.fill(rows([2, 2]))
    stream = tokens(8)
    assert torch.equal(held(stream)[2:], stream[2:])


def test_the_map_of_a_longer_pass_that_broke_off_does_not_stay():
    held = holding(one=BAND["addition"])
    held.shared.fill(rows([2] * 6, tally=[1] * 6))
    held.shared.fill(rows([2, 2], tally=[1, 1]))
    stream = tokens(6)
    assert torch.equal(held(stream)[2:], stream[2:])
    assert held.tally_S2[1].tolist() == [2, 0]


def test_more_tokens_than_the_map_has_room_for_are_refused_not_left_alone():
    with pytest.raises(RuntimeError):
        holding(one=BAND["addition"])(tokens(33))


def test_settings_of_one_batch_each_do_their_own():
    stream, phases = tokens(12), [2, 4, 6, 0] * 3
    others = {"b": [Ablation(0, direction(5), 0.25)], "c": [Ceiling(0, direction(6), -1.0)]}
    asked = {"a": BAND["two"], **others}
    held = holding(**asked)
    held.shared.fill(rows(phases))
    together = held(stream)
    for number, interventions in enumerate(asked.values(), start=1):
        alone = holding(one=interventions)
        alone.shared.fill(rows([2] * 12))
        mine = [place for place, phase in enumerate(phases) if phase == 2 * number]
        assert torch.equal(together[mine], alone(stream)[mine])


@pytest.mark.parametrize(("mask", "moved"), [("all", 3), ("prompt", 2), ("generated", 1)])
@pytest.mark.parametrize("kind", ["floor", "ceiling", "addition", "ablation"])
def test_a_mask_chooses_the_tokens_of_the_prompt_or_those_that_were_sampled(kind, mask, moved):
    held = holding(one=[replace(one, tokens=mask) for one in BAND[kind]])
    held.shared.fill(rows([2, 2, 3], tally=[1, 1, 1]))
    stream = torch.zeros(3, HIDDEN) + 0.1 * direction(1)  # a projection that each of them moves
    changed = (held(stream) != stream).any(-1).tolist()
    assert changed == [mask != "generated"] * 2 + [mask != "prompt"]
    # Floors and ceilings say what they moved; the other two move everything.
    assert held.tally_S2[1].tolist() == [3, moved if kind in ("floor", "ceiling") else 0]


def test_steps_at_one_layer_act_in_their_order():
    first, second = Floor(0, direction(1), 2.0), Floor(0, direction(2), 1.0)
    push = Addition(0, direction(1), -5.0)
    stream = tokens(10)
    found = {}
    for name, asked in {"12": [first, second], "21": [second, first], "p": [second, push]}.items():
        held = holding(one=asked)
        held.shared.fill(rows([2] * 10))
        found[name] = held(stream)
        wanted = by_steering(in_order(asked), stream)
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found["12"], found["21"])
    # The last floor holds exactly, whatever came before it.
    assert float((found["p"] @ direction(2)).min()) > 1.0 - 1e-5


def test_only_the_steps_of_the_layer_itself_act_there():
    held = holding(one=[Floor(1, direction(1), 9.0), Floor(0, direction(2), 2.0)])
    held.shared.fill(rows([2] * 5))
    stream = tokens(5)
    alone = by_steering([Floor(0, direction(2), 2.0)], stream)
    torch.testing.assert_close(held(stream), alone, rtol=1e-5, atol=1e-5)


def test_a_global_setting_holds_every_token_without_a_map():
    held = holding(Deployment(None, is_global=True, settings=1), one=BAND["floor"])
    stream = tokens(7)
    wanted = by_steering(BAND["floor"], stream)
    torch.testing.assert_close(held(stream), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_global", [True, False])
def test_a_forgotten_setting_does_nothing(is_global):
    held = holding(replace(PLAIN, is_global=is_global), one=BAND["two"])
    held.write(1, None)
    held.shared.fill(rows([2, 3, 2], tally=[1, 1, 1]))
    stream = tokens(3)
    assert torch.equal(held(stream), stream)
    assert held.tally_S2[1].tolist() == [3, 0]


def test_a_setting_with_fewer_steps_leaves_nothing_of_the_one_before():
    held = holding(one=BAND["two"])
    held.write(1, PackedInterventions.of("x", BAND["ceiling"]))
    fresh = holding(one=BAND["ceiling"])
    for name in ("directions_SKD", "numbers_PKN", "is_bound_SK"):
        assert torch.equal(getattr(held, name), getattr(fresh, name))


def test_more_steps_than_there_is_room_for_are_refused():
    with pytest.raises(UsageError, match=r"3 interventions at layer 0.*start it with steps=3"):
        holding(one=[Floor(0, direction(n), 1.0) for n in range(3)])


def test_the_tally_counts_tokens_seen_and_moved_per_setting():
    v = direction(1)
    held = holding(a=[Floor(0, v, 2.0)], b=[Floor(0, v, 2.0), Addition(0, direction(2), 0.1)])
    # Projections 1, 3, 1 and 3 on v: a floor of 2 moves the first and the third.
    stream = torch.stack([v, 3 * v, v, 3 * v])
    held.shared.fill(rows([2, 2, 2, 4], tally=[1, 1, 1, 2]))
    held(stream)
    assert held.tally_S2[1:3].tolist() == [[3, 2], [1, 0]]
    held(stream)
    assert held.tally_S2[1].tolist() == [6, 4]


def test_a_token_moved_by_two_floors_is_counted_once():
    held = holding(one=[Floor(0, direction(1), 50.0), Floor(0, direction(2), 50.0)])
    held.shared.fill(rows([2, 2], tally=[1, 1]))
    held(tokens(2))
    assert held.tally_S2[1].tolist() == [2, 2]


@pytest.mark.parametrize("form", FORMS)
def test_sums_and_norms_are_those_of_the_steered_stream_and_of_recorded_tokens_only(form):
    held = holding(replace(PLAIN, recordings=2), form=form, one=[Addition(0, direction(1), 2.0)])
    output, _ = in_form(form, tokens(5), tokens(5, seed=4))
    spare = 2  # the first row that nobody collects
    held.shared.fill(rows([2, 2, 2, 0, 0], sums=[0, spare, 0, 1, spare]))
    stream = stream_of(held(output), form)
    for row, mine in enumerate([[0, 2], [3]]):
        torch.testing.assert_close(held.sums_RD[row], stream[mine].sum(0))
        torch.testing.assert_close(held.norms_R[row], stream[mine].norm(dim=-1).sum())


def test_sums_of_bfloat16_tokens_are_made_in_float32():
    """1024 tokens of 1 and 1024 of 2^-7: bfloat16 would lose the small ones beside the sum."""
    held = held_layer(replace(PLAIN, recordings=1), slots=2048)
    held.shared.fill(rows([0] * 2048, sums=[0] * 2048))
    stream = torch.ones(2048, HIDDEN, dtype=torch.bfloat16)
    stream[1024:] = 2**-7
    held(stream)
    assert held.sums_RD[0].tolist() == [1024 + 8] * HIDDEN  # 1024·1 + 1024/128


def test_heights_are_the_projections_after_steering():
    held = holding(replace(PLAIN, probes=2), one=BAND["floor"])
    held.probes_MD[0], held.probes_MD[1] = direction(1), direction(3)
    held.shared.fill(rows([2, 2, 0]))
    stream = held(tokens(3))
    wanted = stream @ torch.stack([direction(1), direction(3)], -1)
    torch.testing.assert_close(held.projections_TM[:3], wanted)
    assert float(held.projections_TM[:2, 0].min()) > 2.0 - 1e-5


def test_a_layer_that_is_only_recorded_gives_its_output_untouched():
    shared = checked_layers.TokenMaps(replace(PLAIN, recordings=1), 8, CPU)
    held = checked_layers.SteeredLayer(
        shared, layer=0, hidden=HIDDEN, device=CPU, is_steered=False, is_first=True, is_sum=True
    )
    held.write(1, PackedInterventions.of("x", BAND["two"]))  # acts elsewhere
    shared.fill(rows([2] * 3, sums=[0] * 3))
    output = (tokens(3), tokens(3, seed=4))
    found = held(output)
    assert found[0] is output[0]
    assert torch.allclose(held.sums_RD[0], (output[0] + output[1]).sum(0))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ([torch.zeros(2, HIDDEN)], "returned list, expected a tensor or"),
        ((torch.zeros(2, HIDDEN),) * 3, "returned tuple, expected a tensor or"),
        (
            torch.zeros(4, 2, HIDDEN),
            "returned 3 axes .*several are held by the transformers engine",
        ),
        ((torch.zeros(2, HIDDEN), (None,)), "returned a tuple as its second output"),
        (torch.zeros(2, 8), r"last width 8, expected \[token, 16\]"),
        (torch.zeros(2, 2, HIDDEN), "returned 3 axes"),
    ],
)
def test_an_output_of_unknown_form_is_refused(output, message):
    with pytest.raises(ModelLayoutError, match=message):
        held_layer(PLAIN)(output)


def unchecked():
    """The module without the tests' own checks of shapes, which torch.compile cannot trace."""
    layers = loaded_anew(checked_layers)
    layers.shift = loaded_anew(geometry).shift
    return layers


def loaded_anew(module):
    name = f"unchecked_{module.__name__.rpartition('.')[-1]}"
    spec = importlib.util.spec_from_file_location(name, module.__file__)
    anew = importlib.util.module_from_spec(spec)
    sys.modules[name] = anew  # the compiler imports by name what is called of another module
    spec.loader.exec_module(anew)
    return anew


def change(held, step):
    """The step-th setting, probe and map, and how many tokens they are for."""
    setting = [BAND["floor"], BAND["two"], None, BAND["ablation"], BAND["ceiling"]][step]
    count = (5, 9, 12, 3, 7)[step]
    held.write(1, None if setting is None else PackedInterventions.of("x", setting))
    sums = None
    if held.probes:
        held.probes_MD[0] = direction(step)
        # A recording takes one token of a step at most: a graph for a CPU can do no more.
        sums = [n if n < RECORDINGS else RECORDINGS + n % TRASH for n in range(count)]
    phases, tally = [(2, 0, 3)[n % 3] for n in range(count)], [n % 2 for n in range(count)]
    held.shared.fill(rows(phases, sums=sums, tally=tally))
    return count


@pytest.mark.parametrize("is_global", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_one_graph_without_a_break_serves_all_settings_and_equals_eager(form, is_global):
    layers, recorded = unchecked(), {} if is_global else {"recordings": RECORDINGS, "probes": 1}
    deployment = Deployment(None, settings=2, is_global=is_global, **recorded)
    shared = [layers.TokenMaps(deployment, 32, CPU) for _ in range(2)]
    more = {
        "layer": 0,
        "hidden": HIDDEN,
        "device": CPU,
        "is_steered": True,
        "is_first": True,
        "is_sum": form != "added already",
    }
    eager, traced = (layers.SteeredLayer(one, **more) for one in shared)
    torch.compiler.reset()
    compiled = torch.compile(traced, fullgraph=True, dynamic=True, backend="aot_eager")
    for step in range(5):
        count, _ = change(eager, step), change(traced, step)
        output, _ = in_form(form, tokens(count, step), tokens(count, step + 50))
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            torch.testing.assert_close(
                stream_of(compiled(output), form), stream_of(eager(output), form)
            )
    for name, buffer in eager.named_buffers():
        kept = slice(RECORDINGS) if name in ("sums_RD", "norms_R") else slice(None)
        torch.testing.assert_close(traced.get_buffer(name)[kept], buffer[kept])
    assert eager.tally_S2[1].tolist() != [0, 0]
    torch.compiler.reset()


def compiled_as_vllm_does(function, *given):
    """What it gives in a graph for a CPU whose threads are counted when it runs, and its code."""
    torch.compiler.reset()
    graph = torch.compile(function, fullgraph=True, options={"cpp.dynamic_threads": True})
    found, code = run_and_get_code(graph, *given)
    torch.compiler.reset()
    return found, "".join(code)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_graph_for_a_cpu_records_without_a_compare_and_swap():
    layers, count = unchecked(), 1024
    shared = layers.TokenMaps(Deployment(None, recordings=RECORDINGS), count, CPU)
    held = layers.SteeredLayer(
        shared, layer=0, hidden=HIDDEN, device=CPU, is_steered=False, is_first=True, is_sum=True
    )
    spare = [RECORDINGS + n % TRASH for n in range(count - 2)]
    shared.fill(rows([0] * count, sums=[*spare, 1, 0]))
    output = tokens(count), tokens(count, seed=4)
    stream = sum(output)
    held.sums_RD[0] = 7.0
    _, code = compiled_as_vllm_does(held, output)
    torch.testing.assert_close(held.sums_RD[:2], torch.stack([7 + stream[-1], stream[-2]]))
    torch.testing.assert_close(held.norms_R[:2], stream[[-1, -2]].norm(dim=-1))
    assert "atomic_add" not in code
    # Where this no longer holds, the compiler has learnt it, and `index_add_` will do.
    _, code = compiled_as_vllm_does(
        lambda stream: held.sums_RD.index_add_(0, held.sums_row_T, stream), stream
    )
    assert "atomic_add" in code
