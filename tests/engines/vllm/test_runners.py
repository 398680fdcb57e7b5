"""Whose tokens a step computes, as vLLM's two model runners tell it."""

import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load

from keel.engines.vllm.deployment import Deployment
from keel.engines.vllm.handover import SumsFolder, unpacked_sums
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.token_book import RECORD, SCORE, SPANS, SUMS
from keel.engines.vllm.worker import begin_v2, follow_v2, steer_runner
from keel.errors import NotAppliedError
from keel.types import Floor
from tests.engines.vllm.toys import HIDDEN, ToyModel, direction, hold, request, scheduled, tokens

PLAIN = Deployment(None, settings=2)
BAND = PackedInterventions.of("band", [Floor(n, direction(n), 1e4) for n in range(3)])
"""Floors that every token is under."""
needs_vllm = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),  # vLLM's own, at import
]


def vllm_config(tokens=16, graphs=None, runs_ahead=False):
    model = SimpleNamespace(
        get_total_num_hidden_layers=lambda: 3, get_hidden_size=lambda: HIDDEN, dtype=torch.float32
    )
    return SimpleNamespace(
        model_config=model,
        scheduler_config=SimpleNamespace(
            max_num_batched_tokens=tokens, async_scheduling=runs_ahead
        ),
        compilation_config=SimpleNamespace(cudagraph_capture_sizes=graphs),
    )


class RunnerV1:
    """The seams of vLLM's V1 runner: it lays out its own batch, then runs the model."""

    def __init__(self, model, **config):
        self.model, self.device, self.vllm_config = model, "cpu", vllm_config(**config)
        self.input_batch = SimpleNamespace(req_ids=[], num_reqs=0, generators={})
        self.discard_request_mask = SimpleNamespace(np=np.zeros(8, dtype=bool))
        self.input_ids = SimpleNamespace(gpu=torch.zeros(32, dtype=torch.int32))
        self.fails = False

    def execute_model(self, scheduler_output):
        # A request that has ended leaves a hole behind the batch's rows.
        self.input_batch.req_ids = [*scheduler_output.batch, None]
        self.input_batch.num_reqs = len(scheduler_output.batch)
        starts = [start for start, _ in scheduler_output.batch.values()]
        self.input_batch.num_computed_tokens_cpu = np.array([*starts, 99], dtype=np.int32)
        parts = [stream for _, stream in scheduler_output.batch.values()]
        counts = np.array([len(stream) for stream in parts], dtype=np.int32)
        assert self._prepare_inputs(scheduler_output, counts) == "laid out"
        padding = torch.ones(scheduler_output.padding, HIDDEN)
        return self._model_forward(inputs_embeds=torch.cat([*parts, padding]))

    def _prepare_inputs(self, scheduler_output, num_scheduled_tokens):
        return "laid out"

    def sample_tokens(self, grammar_output):
        """Draws for every row, as vLLM does, and turns back where no token was due."""
        for row, generator in self.input_batch.generators.items():
            torch.rand(1, generator=generator)
            if self.discard_request_mask.np[row]:
                generator.set_offset(generator.get_offset() - 4)
        return grammar_output

    def _model_forward(self, inputs_embeds):
        if self.fails:
            raise RuntimeError("the model broke off")
        return self.model(inputs_embeds)


def step(batch, *new, finished=(), padding=0):
    """A step over {request: (first position, stream)}, in the runner's own order."""
    told = scheduled(*new, finished=finished)
    return SimpleNamespace(**vars(told), batch=batch, padding=padding)


def runner_v1(**config):
    runner = RunnerV1(ToyModel(), **config)
    held = steer_runner(runner, PLAIN)
    held.register("band", BAND.to_bytes())
    return runner, held


def test_rows_follow_the_runners_own_order_and_not_that_of_arrival():
    runner, held = runner_v1()
    arrived = request("a", 3, keel="band"), request("b", 3)
    a, b = tokens(3, seed=1), tokens(2, seed=2)
    found = runner.execute_model(step({"b": (0, b), "a": (0, a)}, *arrived, padding=3))
    plain = ToyModel()(torch.cat([b, a, torch.ones(3, HIDDEN)]))
    changed = (found != plain).any(-1).tolist()
    assert changed == [False] * 2 + [True] * 3 + [False] * 3  # b, a, padding
    assert held.firing("band")[0][0] == 3
    assert not held.shared.phase_T.any()  # idle again, for vLLM's own passes


def test_positions_are_counted_from_what_was_computed_before():
    """A prompt in chunks, behind a prefix that came from the cache."""
    runner, _ = runner_v1()
    held = runner.model.layers[0].keel_layer.shared
    seen = []
    runner.model.layers[0].register_forward_pre_hook(lambda *_: seen.append(held.phase_T.tolist()))
    runner.execute_model(step({"a": (4, tokens(2))}, request("a", 7, keel="band")))
    runner.execute_model(step({"a": (6, tokens(3))}))
    assert [phases[:4] for phases in seen] == [[2, 2, 0, 0], [2, 3, 3, 0]]


def test_a_request_that_has_ended_gives_its_name_free():
    runner, _ = runner_v1()
    runner.execute_model(step({"a": (0, tokens(2))}, request("a", 2, keel="band")))
    new = request("a", 2)
    found = runner.execute_model(step({"a": (0, tokens(2))}, new, finished=["a"]))
    assert torch.equal(found, ToyModel()(tokens(2)))


def test_a_pass_of_the_runners_own_is_left_alone():
    runner, held = runner_v1()
    stream = tokens(5)
    assert torch.equal(runner._model_forward(inputs_embeds=stream), ToyModel()(stream))
    assert held.status()["steps"] == 0


def test_a_step_after_one_that_broke_off_is_not_held_by_its_maps():
    runner, held = runner_v1()
    runner.fails = True
    with pytest.raises(RuntimeError, match="broke off"):
        runner.execute_model(step({"a": (0, tokens(5))}, request("a", 5, keel="band")))
    runner.fails = False
    new = request("b", 2)
    found = runner.execute_model(step({"b": (0, tokens(2))}, new, finished=["a"], padding=4))
    assert torch.equal(found, ToyModel()(torch.cat([tokens(2), torch.ones(4, HIDDEN)])))
    with pytest.raises(NotAppliedError, match="saw 0 of 5 tokens"):
        held.firing("band")


def test_a_prompt_of_which_only_a_part_was_read_draws_nothing_from_its_seed():
    """vLLM draws for it, and dies of a generator of the CPU that it cannot turn back."""
    runner, _ = runner_v1()
    generators = {row: torch.Generator().manual_seed(row) for row in (0, 2)}
    runner.input_batch.num_reqs, runner.input_batch.generators = 3, dict(generators)
    runner.discard_request_mask.np[2] = True
    assert runner.sample_tokens("drawn") == "drawn"
    assert runner.input_batch.generators == generators
    fresh = [torch.Generator().manual_seed(row).get_state() for row in (0, 2)]
    assert not torch.equal(generators[0].get_state(), fresh[0])
    assert torch.equal(generators[2].get_state(), fresh[1])


def test_the_map_has_room_for_a_graph_that_is_larger_than_any_batch():
    for graphs, room in ((None, 16), ([], 16), ([1, 8], 16), ([1, 128], 128)):
        _, held = runner_v1(graphs=graphs)
        assert held.shared.max_tokens >= room


def test_a_step_of_v1_that_ran_ahead_counts_no_token_that_had_ended_its_answer():
    runner, held = runner_v1(runs_ahead=True)
    new = request("a", 2, ends=[7], keel="band"), request("b", 2, ends=[8], keel="band")
    runner.execute_model(step({"a": (0, tokens(2)), "b": (0, tokens(2))}, *new))
    runner.input_ids.gpu[:2] = torch.tensor([7, 7])
    runner.execute_model(step({"a": (2, tokens(1)), "b": (2, tokens(1))}))
    assert held.firing("band")[0] == (5, 5)


class RunnerV2:
    """The seams of vLLM's V2 runner, whose batch says all by itself."""

    def __init__(self, model, **config):
        self.model, self.device, self.vllm_config = model, "cpu", vllm_config(**config)
        self.execute_model_state = None

    def get_model(self):
        return self.model

    def execute_model(self, scheduler_output):
        """Leaves the model's output to be sampled from, as V2 does, and returns none."""
        self.execute_model_state = None
        self.prepare_inputs(scheduler_output)
        output = self.model(scheduler_output.streams)
        self.execute_model_state = SimpleNamespace(hidden_states=output)

    def prepare_inputs(self, scheduler_output):
        return scheduler_output.batch


def in_v2(names, counts, starts, padded_reqs=0, padded_tokens=0):
    """A real `InputBatch` of these requests, as V2's `prepare_inputs` lays it out."""
    from vllm.v1.worker.gpu.input_batch import InputBatch, InputBuffers

    total, reqs = sum(counts), len(counts)
    buffers = InputBuffers(reqs + padded_reqs, total + padded_tokens, torch.device("cpu"))
    batch = InputBatch.make_dummy(reqs, total, buffers)
    edges = np.cumsum([0, *counts, *[0] * padded_reqs], dtype=np.int32)
    return replace(
        batch,
        req_ids=list(names),
        num_scheduled_tokens=np.array(counts, dtype=np.int32),
        query_start_loc_np=edges,
        num_reqs_after_padding=reqs + padded_reqs,
        num_tokens_after_padding=total + padded_tokens,
        num_computed_tokens_np=np.array(starts, dtype=np.int32),
    )


class TestV2:
    """Against vLLM's own batches."""

    pytestmark = needs_vllm

    def test_a_dummy_batch_is_nobodys(self):
        from vllm.v1.worker.gpu.input_batch import InputBatch, InputBuffers

        held = hold(Deployment(None, recordings=1))
        held.register("band", BAND.to_bytes())
        batch = InputBatch.make_dummy(3, 7, InputBuffers(4, 16, torch.device("cpu")))
        begin_v2(held, batch)
        assert len(held.current.phase_T) == 7
        assert not held.current.phase_T.any()
        assert held.current.taken == []

    def test_rows_are_those_of_the_batch_in_its_order_with_padding_behind(self):
        held = hold(Deployment(None, settings=2, recordings=1))
        held.register("band", BAND.to_bytes())
        new = request("a", 3, keel="band", **{RECORD: "k"}), request("b", 2)
        held.note_requests(scheduled(*new))
        begin_v2(held, in_v2("ba", [2, 4], [0, 1], padded_reqs=2, padded_tokens=2))
        # a stands at position 1: two tokens of prompt, then two that were sampled.
        assert held.shared.phase_T[:8].tolist() == [0, 0, 2, 2, 3, 3, 0, 0]
        assert held.shared.tally_row_T[:8].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
        assert held.current.taken == [("k", 0, 4, 6)]

    def test_drafts_that_were_left_out_take_no_rows(self):
        """Under adaptive verification the numbers scheduled are an upper bound."""
        held = hold(PLAIN)
        held.register("band", BAND.to_bytes())
        held.note_requests(scheduled(request("a", 1, keel="band"), request("b", 1)))
        batch = in_v2("ba", [2, 2], [1, 1])
        begin_v2(held, replace(batch, num_scheduled_tokens=np.array([3, 3], dtype=np.int32)))
        assert held.shared.phase_T[:6].tolist() == [0, 0, 3, 3, 0, 0]

    def test_a_runner_is_followed_through_its_batches(self):
        runner = RunnerV2(ToyModel())
        held = steer_runner(runner, Deployment(None, settings=2, recordings=1))
        held.register("band", BAND.to_bytes())
        a, b = tokens(4, seed=1), tokens(2, seed=2)
        told = scheduled(request("a", 3, keel="band", **{RECORD: "k"}), request("b", 2))
        told.batch, told.streams = in_v2("ba", [2, 4], [0, 0]), torch.cat([b, a])
        assert runner.execute_model(told) is None
        output = runner.execute_model_state.hidden_states
        changed = (output != ToyModel()(told.streams)).any(-1).tolist()
        assert changed == [False] * 2 + [True] * 4
        assert held.firing("band")[2][0] == 4
        assert held.book.by_key["k"].spans[0].tokens == 1
        assert not held.shared.phase_T.any()

    def test_what_predicts_a_read_turn_is_kept(self):
        """So that likelihoods and divergences can be made of it: of 34 predictions none was."""
        runner = RunnerV2(ToyModel())
        held = steer_runner(runner, Deployment(None, recordings=1))
        spans = {RECORD: "k", SPANS: [2, 5], SCORE: 1, SUMS: 0}
        told = scheduled(request("a", 6, **spans))
        told.batch, told.streams = in_v2("a", [6], [0]), tokens(6)
        runner.execute_model(told)
        output = ToyModel()(tokens(6))
        expected = torch.log_softmax(held.model.compute_logits(output[1:4]), -1)
        read = load(held.recordings.likelihood("k"))["log_likelihood"]
        torch.testing.assert_close(read, expected[range(3), [2, 3, 4]])

    def test_a_step_that_ran_ahead_counts_no_token_that_had_ended_its_answer(self):
        runner = RunnerV2(ToyModel(), runs_ahead=True)
        held = steer_runner(runner, Deployment(None, settings=2, recordings=1))
        held.register("band", BAND.to_bytes())
        told = scheduled(request("a", 2, ends=[5], keel="band", **{RECORD: "k"}))
        for ids, start in (([1, 2], 0), ([3], 2), ([5], 3)):
            batch = in_v2("a", [len(ids)], [start])
            batch.input_ids[:] = torch.tensor(ids)
            told.batch, told.streams = batch, tokens(len(ids))
            runner.execute_model(told)
            told = scheduled()
        assert held.firing("band")[2] == (3, 3)
        assert unpacked_sums(held.recordings.collect(["k"]), SumsFolder())["k/0/tokens"].item() == 1

    def test_a_step_that_broke_off_leaves_idle_maps(self):
        runner, held = RunnerV2(ToyModel()), hold(Deployment(None, is_global=True))
        held.register("band", BAND.to_bytes())
        follow_v2(runner, held)
        told = scheduled(request("a", 2, keel="band"))
        told.batch, told.streams = in_v2("a", [2], [0]), None
        with pytest.raises(TypeError):
            runner.execute_model(told)
        assert not held.shared.phase_T.any()
        assert held.current is None

    def test_the_requests_with_which_v2_warms_up_pass_before_any_setting_is_there(self):
        """vLLM hand-builds them, and a server with a default setting did not start."""
        from vllm import SamplingParams
        from vllm.v1.core.sched.output import NewRequestData, SchedulerOutput

        runner = RunnerV2(ToyModel())
        held = steer_runner(runner, Deployment(None, is_global=True, default="band"))
        new = NewRequestData("_warmup_0", [0, 1], [], SamplingParams(), None, (), 0, None)
        told = SchedulerOutput.make_empty()
        told.scheduled_new_reqs = [new]
        told.batch, told.streams = in_v2(["_warmup_0"], [2], [0]), tokens(2)
        runner.execute_model(told)
        output = runner.execute_model_state.hidden_states
        assert torch.equal(output, ToyModel()(tokens(2)))
        assert held.status()["steps"] == 1
