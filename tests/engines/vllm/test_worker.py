"""Keel in one worker: what it holds, for whom, and that it notices when it is passed by.

Equality to the bit is asked for between passes of one shape only: a CPU's kernels add in another
order when a pass holds another number of tokens.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from keel.engines.vllm.deployment import KEY, OFF, Deployment
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.token_book import RECORD, SPANS
from keel.errors import ModelLayoutError, ModelMismatchError, NotAppliedError, UsageError
from keel.steering import Addition, Ceiling
from keel.types import Floor
from tests.engines.vllm.toys import (
    HIDDEN,
    ToyLayer,
    ToyModel,
    compute,
    direction,
    hold,
    request,
    scheduled,
    tokens,
)

PLAIN = Deployment(None, settings=2, steps=2)
BAND = [Floor(n, direction(n), 2.0) for n in range(3)]
HIGH = 1e4
"""A floor that every token is under."""


def register(held, name, interventions):
    held.register(name, PackedInterventions.of(name, interventions).to_bytes())


def maps_are_idle(held):
    shared = held.shared
    return not shared.phase_T.any() and not shared.tally_row_T.any()


def test_a_request_is_held_under_the_setting_that_it_names_and_the_next_is_not():
    held = hold(PLAIN)
    register(held, "band", BAND)
    held.note_requests(scheduled(request("a", 4, **{KEY: "band"}), request("b", 4)))
    plain = ToyModel()(tokens(4).repeat(2, 1))
    both = compute(held, ("a", 0, tokens(4)), ("b", 0, tokens(4)))
    assert torch.equal(both[4:], plain[4:])
    assert float((both[:4] @ direction(2)).min()) > 2.0 - 1e-5
    assert float((plain @ direction(2)).min()) < 2.0


def test_every_layer_says_how_many_tokens_it_saw_and_moved():
    held = hold(PLAIN)
    register(held, "all", [Floor(n, direction(n), HIGH) for n in range(3)])
    register(held, "one", [Floor(1, direction(1), HIGH)])
    held.note_requests(scheduled(request("a", 4, keel="all"), request("b", 2, keel="one")))
    compute(held, ("a", 0, tokens(4)), ("b", 0, tokens(2)))
    compute(held, ("a", 4, tokens(1)), ("b", 2, tokens(1)))
    assert held.firing("all") == {0: (5, 5), 1: (5, 5), 2: (5, 5)}
    assert held.firing("one") == {0: (3, 0), 1: (3, 3), 2: (3, 0)}
    register(held, "all", [Floor(n, direction(n), HIGH) for n in range(3)])
    assert held.firing("all") == {0: (0, 0), 1: (0, 0), 2: (0, 0)}
    assert held.firing("one")[1] == (3, 3)


class AddingLayer(ToyLayer):
    """A layer that has added its residual already, and returns of no use what it returns second."""

    def forward(self, hidden, residual):
        residual = hidden
        return residual + torch.tanh(self.mix(hidden)), residual


def test_of_layers_that_have_added_their_residual_the_first_output_is_held():
    """Held was first + second, and the next layer read a stream far under the floor."""
    model = ToyModel()
    model.layers = torch.nn.ModuleList(AddingLayer() for _ in range(3))
    held = hold(replace(PLAIN, probes=1), model)
    register(held, "band", [Floor(2, direction(2), 2.0)])
    held.note_requests(scheduled(request("a", 4, keel="band")))
    held.begin(["a"], [0], [4])
    stream, residual = tokens(4), None
    with torch.no_grad():
        for layer in model.layers:
            stream, residual = layer(stream, residual)
    assert float((stream @ direction(2)).min()) > 2.0 - 1e-5


def test_layers_with_several_streams_are_refused_before_anything_runs():
    class SeveralLayer(ToyLayer):
        def forward(self, hidden, residual, mix):
            return hidden, residual, mix

    model = ToyModel()
    model.layers[1] = SeveralLayer()
    with pytest.raises(ModelLayoutError, match=r"SeveralLayer returns \(hidden, residual, mix\)"):
        hold(PLAIN, model)


def test_a_layer_that_is_passed_by_is_noticed():
    held = hold(PLAIN)
    register(held, "band", BAND)
    held.note_requests(scheduled(request("a", 4, keel="band")))
    layer = held.model.layers[1]
    layer.__class__ = type(layer).__mro__[1]  # as a graph of before the wrap would run it
    compute(held, ("a", 0, tokens(4)))
    with pytest.raises(NotAppliedError, match="layer 1 saw 0 of 4 tokens under 'band'"):
        held.firing("band")


def test_a_model_that_runs_past_its_maps_is_noticed():
    held = hold(PLAIN)
    register(held, "band", BAND)
    held.note_requests(scheduled(request("a", 4, keel="band")))
    held.begin(["a"], [0], [4])
    held.end(None)  # the maps were filled and nothing ran
    with pytest.raises(NotAppliedError, match="layer 0 saw 0 of 4 tokens"):
        held.firing("band")


def test_prompt_and_sampled_tokens_are_told_apart_by_position():
    held = hold(PLAIN)
    register(held, "late", [Addition(0, direction(1), 5.0, "generated")])
    held.note_requests(scheduled(request("a", 3, keel="late")))
    stream = tokens(5)
    # In chunks of two, so that one chunk holds the last of the prompt and the first sampled.
    starts = (0, 2, 4)
    plain = torch.cat([ToyModel()(stream[n : n + 2]) for n in starts])
    found = torch.cat([compute(held, ("a", n, stream[n : n + 2])) for n in starts])
    assert (found != plain).any(-1).tolist() == [False, False, False, True, True]


def test_the_maps_are_idle_after_every_pass():
    held = hold(PLAIN)
    register(held, "band", BAND)
    held.note_requests(scheduled(request("a", 4, keel="band")))
    compute(held, ("a", 0, tokens(4)))
    assert maps_are_idle(held)
    held.end(None)  # a pass of vLLM's own, which Keel did not begin
    assert held.status()["steps"] == 1


def test_padding_behind_a_pass_that_broke_off_is_not_held():
    """The maps of six tokens were filled and never emptied: of the next pass, padded to eight,
    all were steered."""
    held = hold(PLAIN)
    register(held, "band", BAND)
    held.note_requests(scheduled(request("a", 6, keel="band"), request("b", 2)))
    held.begin(["a"], [0], [6])
    held.begin(["b"], [0], [2])
    assert torch.equal(held.model(tokens(8)), ToyModel()(tokens(8)))


def test_a_preempted_request_keeps_its_setting():
    held = hold(PLAIN)
    register(held, "band", BAND)
    held.note_requests(scheduled(request("a", 3, keel="band")))
    never_preempted = hold(PLAIN)
    register(never_preempted, "band", BAND)
    never_preempted.note_requests(scheduled(request("a", 3, keel="band")))
    stream = tokens(5)
    compute(held, ("a", 0, stream))
    again = compute(held, ("a", 2, stream[2:]))  # the cache kept two tokens
    assert torch.equal(again, compute(never_preempted, ("a", 2, stream[2:])))
    assert not torch.equal(again, ToyModel()(stream[2:]))
    assert held.firing("band")[0][0] == 8  # computed twice, seen twice


def test_a_finished_request_is_forgotten():
    held = hold(PLAIN)
    register(held, "band", BAND)
    held.note_requests(scheduled(request("a", 3, keel="band")))
    held.note_requests(scheduled(request("a", 3), finished=["a"]))
    assert torch.equal(compute(held, ("a", 0, tokens(3))), ToyModel()(tokens(3)))


def test_a_request_that_names_nothing_is_under_the_default():
    held = hold(Deployment(None, default="band"))
    register(held, "band", BAND)
    held.note_requests(scheduled(request("a", 2), request("b", 2, keel=OFF)))
    both = compute(held, ("a", 0, tokens(2)), ("b", 0, tokens(2)))
    plain = ToyModel()(tokens(2).repeat(2, 1))
    assert torch.equal(both[2:], plain[2:])
    assert not torch.equal(both[:2], plain[:2])


def test_requests_with_which_vllm_warms_up_need_no_setting_but_later_ones_do():
    """The V2 runner sends whole requests through the worker before any setting can be known: with
    a default that is not there yet, the engine did not start."""
    held = hold(Deployment(None, default="band"))
    held.note_requests(scheduled(request("_warmup_", 2)))
    assert torch.equal(compute(held, ("_warmup_", 0, tokens(2))), ToyModel()(tokens(2)))
    register(held, "band", BAND)
    held.register("band", b"")
    with pytest.raises(UsageError, match="'band' is not registered"):
        held.note_requests(scheduled(request("a", 2), finished=["_warmup_"]))


def test_a_worker_with_other_floors_than_its_server_is_noticed():
    """A second node started with other floors, or none, answered under those."""
    held = hold(PLAIN)
    register(held, "band", BAND)
    mine = PackedInterventions.of("band", BAND).fingerprint
    held.confirm({"band": mine})
    for expected in ({"band": "other"}, {}, {"band": mine, "more": "other"}):
        with pytest.raises(ModelMismatchError, match=r"holds other floors .*\((band|more)\)"):
            held.confirm(expected)
    held.register("band", b"")
    held.confirm({})


def test_a_setting_that_was_never_registered_is_refused():
    held = hold(PLAIN)
    with pytest.raises(UsageError, match="'bnad' is not registered"):
        held.note_requests(scheduled(request("a", 2, keel="bnad")))
    with pytest.raises(UsageError, match="'bnad' is not registered"):
        held.firing("bnad")


def test_a_pooling_request_has_no_parameters_and_no_setting():
    held = hold(PLAIN)
    asked = request("a", 2)
    asked.sampling_params = None
    held.note_requests(scheduled(asked))
    assert torch.equal(compute(held, ("a", 0, tokens(2))), ToyModel()(tokens(2)))


def test_a_prompt_of_embeddings_is_a_prompt_too():
    """It has no token ids, and was taken for an answer from its first token on."""
    held = hold(PLAIN)
    register(held, "late", [Addition(0, direction(1), 5.0, "generated")])
    asked = SimpleNamespace(**{**vars(request("a", 0, keel="late")), "prompt_token_ids": None})
    asked.prompt_len = 3
    held.note_requests(scheduled(asked))
    found = compute(held, ("a", 0, tokens(4)))
    changed = (found != ToyModel()(tokens(4))).any(-1).tolist()
    assert changed == [False, False, False, True]


def test_a_name_can_be_given_to_another_setting():
    held = hold(PLAIN)
    register(held, "x", BAND)
    register(held, "x", [Ceiling(0, direction(1), 0.0)])
    fresh = hold(PLAIN)
    register(fresh, "x", [Ceiling(0, direction(1), 0.0)])
    found = []
    for one in (held, fresh):
        one.note_requests(scheduled(request("a", 3, keel="x")))
        found.append(compute(one, ("a", 0, tokens(3))))
    assert torch.equal(*found)
    assert held.names == {"x": 1}


def test_a_forgotten_setting_gives_its_slot_back_with_its_count_at_zero():
    held = hold(PLAIN)
    register(held, "x", BAND)
    register(held, "y", BAND[:1])
    held.note_requests(scheduled(request("a", 3, keel="x")))
    compute(held, ("a", 0, tokens(3)))
    with pytest.raises(UsageError, match="room for 2 settings and holds x, y"):
        register(held, "z", BAND)
    held.register("x", b"")
    register(held, "z", BAND)
    assert held.status()["settings"] == ["y", "z"]
    assert held.names["z"] == 1
    assert held.firing("z")[0] == (0, 0)


def test_forgetting_what_is_not_there_does_nothing():
    held = hold(PLAIN)
    register(held, "x", BAND)
    held.register("y", b"")
    assert held.status()["settings"] == ["x"]


@pytest.mark.parametrize(
    ("name", "interventions", "error", "message"),
    [
        (OFF, BAND, UsageError, "'none' is the setting that does nothing"),
        ("x", [Floor(0, direction(hidden=8), 1.0)], ModelMismatchError, "8 numbers, but this"),
        ("x", [Floor(2, direction(), 1.0)], UsageError, r"layers \[2\].*started for \[0, 1\]"),
        ("x", [Floor(9, direction(), 1.0)], UsageError, r"layers \[9\]"),
        ("x", [Floor(0, direction(n), 1.0) for n in range(3)], UsageError, "give steps=3"),
    ],
)
def test_a_setting_that_cannot_be_held_is_refused_and_changes_nothing(
    name, interventions, error, message
):
    held = hold(Deployment((0, 1), settings=2, steps=2))
    with pytest.raises(error, match=message):
        register(held, name, interventions)
    assert held.names == {}
    assert not held.layers[0].directions_SKD.any()


def test_a_layer_beyond_the_model_is_refused_where_all_layers_are_held():
    with pytest.raises(UsageError, match=r"layers \[3\]"):
        register(hold(PLAIN), "x", [Floor(3, direction(), 1.0)])


def test_layers_beyond_the_model_cannot_be_asked_for():
    with pytest.raises(ModelMismatchError, match=r"layers \[7\].*0 to 2"):
        hold(Deployment((1, 7)))


@pytest.mark.parametrize(
    ("deployment", "wrapped", "steered"),
    [
        (Deployment((1,)), [1], [1]),
        (Deployment((1,), recordings=1), [0, 1, 2], [1]),
        (Deployment((1,), probes=1), [0, 1, 2], [1]),
        (Deployment(None), [0, 1, 2], [0, 1, 2]),
        (Deployment((), recordings=1), [0, 1, 2], []),
    ],
)
def test_only_layers_that_are_steered_or_recorded_are_wrapped(deployment, wrapped, steered):
    held = hold(deployment)
    assert [n for n, one in enumerate(held.model.layers) if hasattr(one, "keel_layer")] == wrapped
    assert held.status()["layers"] == steered


def test_a_global_setting_holds_requests_that_name_nothing_and_counts_them():
    held = hold(Deployment(None, is_global=True, default="band"))
    register(held, "scratch", BAND[:1])
    held.register("scratch", b"")  # as the self-test does
    register(held, "band", BAND)
    held.note_requests(scheduled(request("a", 3)))
    output = compute(held, ("a", 0, tokens(3)))
    assert float((output @ direction(2)).min()) > 2.0 - 1e-5
    assert held.firing("band")[0][0] == 3


def test_a_second_global_setting_is_refused_and_not_silently_left_out():
    held = hold(Deployment(None, is_global=True, settings=4))
    register(held, "band", BAND)
    with pytest.raises(UsageError, match="room for 1 settings and holds band"):
        register(held, "other", BAND[:1])


def test_a_global_setting_for_some_tokens_is_refused():
    held = hold(Deployment(None, is_global=True))
    with pytest.raises(UsageError, match="token masks need per-request"):
        register(held, "x", [Floor(0, direction(), 1.0, "generated")])


@pytest.mark.parametrize("part", [range(0, 2), range(2, 4)])
def test_a_pipeline_stage_holds_its_layers_of_a_band_that_spans_stages(part):
    held = hold(PLAIN, ToyModel(4, held=part))
    register(held, "band", [Floor(n, direction(n), HIGH) for n in range(4)])
    held.note_requests(scheduled(request("a", 3, keel="band")))
    compute(held, ("a", 0, tokens(3)))
    assert held.status()["layers"] == list(part)
    assert held.firing("band") == dict.fromkeys(part, (3, 3))


def test_a_recorded_request_and_an_unrecorded_one_share_a_batch():
    held = hold(Deployment(None, recordings=1))
    held.note_requests(scheduled(request("a", 2), request("b", 1, **{RECORD: "k"})))
    compute(held, ("a", 0, tokens(2)), ("b", 0, tokens(3, seed=1)))
    sums = held.layers[0].sums_RD[0]
    assert len(sums) == HIDDEN
    hidden, residual = ToyModel().layers[0](tokens(3, seed=1)[1:], None)
    torch.testing.assert_close(sums, (hidden + residual).sum(0).detach())


READ = {RECORD: "k", SPANS: [1, 3]}


def test_a_turn_that_is_read_at_once_wants_plain_code_and_sampled_ones_do_not():
    held = hold(Deployment(None, recordings=2))
    held.note_requests(scheduled(request("a", 4, **READ), request("b", 2, **{RECORD: "l"})))
    held.begin(["b"], [0], [3])
    assert not held.wants_eager
    held.begin(["a", "b"], [0, 3], [4, 1])
    assert held.wants_eager
    held.device = torch.device("cuda")  # there a graph can add what it likes
    assert not held.wants_eager


def test_a_pass_that_a_graph_ran_and_could_not_record_is_refused():
    held = hold(Deployment(None, recordings=2))
    held.note_requests(scheduled(request("a", 4, **READ)))
    compute(held, ("a", 0, tokens(4)))  # plain code: all is well
    held.note_requests(scheduled(request("b", 4, **(READ | {RECORD: "l"}))))
    held.begin(["b"], [0], [4])
    with pytest.raises(NotAppliedError, match="in its compiled graph"):
        held.end(None)  # no layer ran


def test_the_engine_calls_methods_of_the_worker_and_of_its_recordings_and_no_others():
    held = hold(replace(PLAIN, recordings=1))
    held.call("register", "band", PackedInterventions.of("band", BAND).to_bytes())
    assert held.call("status")["settings"] == ["band"]
    held.call("discard", ["never recorded"])
    with pytest.raises(ValueError, match="unknown request 'begin', expected one of collect"):
        held.call("begin", [], [], [])
