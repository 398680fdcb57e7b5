"""Sums over each answer's projections, for an alarm: which tokens count, and for whom."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from keel.engines.vllm.deployment import KEY, Deployment
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.token_book import RECORD, WATCH, WATCHED_AT_ONCE
from keel.engines.vllm.watching import packed_direction
from keel.errors import ModelMismatchError, UsageError
from keel.types import Floor
from tests.engines.vllm.toys import ToyModel, compute, direction, hold, request, scheduled, tokens

LAYER = 1
WATCHED = Deployment(layers=(1, 2), watched_layer=LAYER)


def watching(deployment=WATCHED, **more):
    """A hold on a toy model that watches answers."""
    held = hold(deployment, **more)
    held.call("watch", packed_direction(direction(7)))
    return held


def projections(stream):
    """The same toy's stream after the watched layer, unsteered, on the watched direction."""
    hidden, residual = stream, None
    with torch.no_grad():
        for layer in ToyModel().layers[: LAYER + 1]:
            hidden, residual = layer(hidden, residual)
    return (hidden + residual) @ direction(7)


def sums(held, key):
    """Tokens, sum, sum of squares, sum of the first 16."""
    numbers = held.call("watched_sums", [key])[0]
    return None if numbers is None else numbers[:4]


def expected(heights_T):
    return [
        len(heights_T),
        float(heights_T.sum()),
        float(heights_T.square().sum()),
        float(heights_T[:16].sum()),
    ]


def near(values):
    return pytest.approx(values, rel=1e-4, abs=1e-4)


def test_only_an_answers_tokens_count_and_not_those_of_its_prompt():
    held = watching()
    held.note_requests(scheduled(request("a", 3, **{WATCH: ["k", 1]})))
    prompt, answer = tokens(3, seed=1), tokens(20, seed=2)
    compute(held, ("a", 0, prompt))
    for n in range(20):
        compute(held, ("a", 3 + n, answer[n : n + 1]))
    assert sums(held, "k/0") == near(expected(projections(answer)))


@pytest.mark.parametrize("chunks", [[40], [15, 2, 23], [1] * 40])
def test_the_beginning_of_an_answer_is_summed_however_it_is_computed(chunks):
    """Preempted, an answer is computed anew in pieces; none of its tokens counts twice."""
    held = watching()
    held.note_requests(scheduled(request("a", 3, **{WATCH: ["k", 1]})))
    stream = tokens(43, seed=2)
    compute(held, ("a", 0, stream[:10]))  # seven tokens, then from the start
    start = 0
    for count in [3, *chunks]:
        compute(held, ("a", start, stream[start : start + count]))
        start += count
    assert sums(held, "k/0") == near(expected(projections(stream[3:])))


class Operations(TorchDispatchMode):
    """Counts the operations that a device would be sent."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        is_view = operation.is_view or "detach" in str(operation)
        self.count += not is_view
        return operation(*args, **(kwargs or {}))


def test_a_step_that_is_watched_costs_one_operation_beside_the_layers_graph():
    """On a GPU each is a launch of its own: nine more a step showed beside a small batch."""
    counts = []
    for key in ({}, {WATCH: ["k", 1]}):
        held = watching()
        held.note_requests(scheduled(request("a", 3, **key)))
        compute(held, ("a", 0, tokens(4)))
        with Operations() as begun:
            held.begin(["a"], [4], [1])
        held.model(tokens(1))
        with Operations() as ended:
            held.end(None)
        counts.append(begun.count + ended.count)
    assert counts[1] == counts[0] + 1
    assert counts[0] <= 2  # the maps in, and out again


def test_what_is_read_is_the_stream_before_it_is_steered_there():
    """A floor at the alarm's own layer lifts every turn to itself; the alarm would be blind."""
    for deployment in (WATCHED, Deployment(layers=(1, 2), watched_layer=LAYER, is_global=True)):
        held = watching(deployment)
        floors = [Floor(LAYER, direction(7), 50.0)]
        held.register("high", PackedInterventions.of("high", floors).to_bytes())
        held.note_requests(scheduled(request("a", 2, **{WATCH: ["k", 1], KEY: "high"})))
        answer = tokens(4, seed=2)
        compute(held, ("a", 2, answer))
        assert sums(held, "k/0") == near(expected(projections(answer)))
        assert held.firing("high")[LAYER] == (4, 4)


def test_an_answer_knows_in_which_share_of_its_slots_it_was_moved():
    """Of two held layers a floor at one lifts every token, one at the other none."""
    held = watching()
    floors = [Floor(1, direction(1), 1e4), Floor(2, direction(2), -1e4)]
    held.register("half", PackedInterventions.of("half", floors).to_bytes())
    for _ in range(2):  # what a pass moved is not counted in the next
        held.note_requests(scheduled(request("a", 1, **{WATCH: ["k", 1], KEY: "half"})))
        held.note_requests(scheduled(request("b", 1, **{WATCH: ["l", 1]})))
        compute(held, ("a", 1, tokens(3)), ("b", 1, tokens(2)))
        assert held.call("watched_sums", ["k/0"])[0][4] == pytest.approx(0.5)
        assert held.call("watched_sums", ["l/0"])[0][4] == 0
        held.note_requests(scheduled(finished=["a", "b"]))
        held.call("watched_sums", ["k/0", "l/0"])


def test_answers_in_one_batch_are_kept_apart_and_unwatched_ones_left_out():
    held = watching()
    held.note_requests(
        scheduled(
            request("0_a", 1, **{WATCH: ["k", 2]}),
            request("1_a", 1, **{WATCH: ["k", 2]}),
            request("b", 1),
        )
    )
    streams = {"0_a": tokens(1, seed=1), "b": tokens(1, seed=2), "1_a": tokens(1, seed=3)}
    compute(held, *((name, 1, stream) for name, stream in streams.items()))
    assert sums(held, "k/0") == near(expected(projections(streams["0_a"])))
    assert sums(held, "k/1") == near(expected(projections(streams["1_a"])))
    assert sums(held, "k/2") is None


def test_a_preempted_answer_counts_each_token_once():
    held = watching()
    held.note_requests(scheduled(request("a", 2, **{WATCH: ["k", 1]})))
    answer = tokens(5, seed=4)
    compute(held, ("a", 2, answer[:3]))
    compute(held, ("a", 0, torch.cat([tokens(2), answer[:4]])))  # all of it again
    compute(held, ("a", 6, answer[4:]))
    assert sums(held, "k/0") == near(expected(projections(answer)))


def test_a_token_that_ended_its_answer_and_was_run_ahead_is_left_out():
    held = watching(runs_ahead=True)
    held.note_requests(scheduled(request("a", 2, ends=[9], **{WATCH: ["k", 1]})))
    answer = tokens(3, seed=5)
    compute(held, ("a", 2, answer), ids=[4, 5, 9])
    assert sums(held, "k/0") == near(expected(projections(answer[:2])))


def test_sums_outlive_their_request_until_they_are_taken_and_rows_begin_anew():
    held = watching()
    held.note_requests(scheduled(request("a", 1, **{WATCH: ["k", 1]})))
    first, second = tokens(2, seed=6), tokens(1, seed=7)
    compute(held, ("a", 1, first))
    held.note_requests(scheduled(request("b", 1, **{WATCH: ["l", 1]}), finished=["a"]))
    compute(held, ("b", 1, second))
    assert sums(held, "k/0") == near(expected(projections(first)))
    assert sums(held, "k/0") is None
    assert sums(held, "l/0") == near(expected(projections(second)))


def test_aborted_answers_take_no_room_for_ever(monkeypatch):
    monkeypatch.setattr("keel.engines.vllm.watching._KEPT", 8)
    held = watching()
    for n in range(3 * 8):
        held.note_requests(scheduled(request(f"{n}", 1, **{WATCH: [f"k{n}", 1]})))
        held.note_requests(scheduled(finished=[f"{n}"]))
    assert len(held.watching.ended) == 8
    assert len(held.book.free) == WATCHED_AT_ONCE


def test_more_answers_than_there_is_room_for_are_answered_unread():
    held = watching()
    held.book.free = held.book.free[:1]
    held.note_requests(
        scheduled(request("a", 1, **{WATCH: ["k", 1]}), request("b", 1, **{WATCH: ["l", 1]}))
    )
    compute(held, ("a", 1, tokens(1)), ("b", 1, tokens(1)))
    assert sums(held, "k/0")[0] == 1
    assert sums(held, "l/0") is None


def test_a_stage_without_the_layer_knows_nothing():
    held = watching(model=ToyModel(held=range(2, 3)))
    held.note_requests(scheduled(request("a", 1, **{WATCH: ["k", 1]})))
    compute(held, ("a", 1, tokens(1)))
    assert sums(held, "k/0") is None


def test_without_an_alarm_nothing_of_it_is_in_the_layers():
    held = hold(Deployment(layers=(1, 2)))
    assert held.watching is None
    names = {name for layer in held.layers.values() for name, _ in layer.named_buffers()}
    assert not names & {"watched_D", "watched_TN"}


def test_a_direction_of_another_width_is_refused():
    with pytest.raises(ModelMismatchError, match="5 numbers.*has 16"):
        hold(WATCHED).call("watch", packed_direction(torch.ones(5)))


def test_an_engine_that_watches_records_no_turns():
    with pytest.raises(UsageError, match="records no turns"):
        Deployment(layers=None, recordings=4, watched_layer=1)
    assert RECORD != WATCH
