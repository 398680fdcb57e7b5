"""Keel in one vLLM worker: the layers it steers and records, and whose tokens each step computes.

vLLM has two model runners: V1 (CPU, and GPUs with VLLM_USE_V2_MODEL_RUNNER=0), and V2, which runs
on GPUs alone.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from keel.engines.vllm.deployment import KEY, OFF, Deployment
from keel.engines.vllm.finding import find_layers
from keel.engines.vllm.layers import SteeredLayer, TokenMaps, wrap
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.recordings import Recordings
from keel.engines.vllm.streams import StreamSource, read_source
from keel.engines.vllm.token_book import StepMaps, TokenBook, rows_of
from keel.engines.vllm.trials import StreamTrials
from keel.engines.vllm.watching import WatchedAnswers, key_of
from keel.errors import ModelLayoutError, ModelMismatchError, NotAppliedError, UsageError

_WATCH_METHODS = ("watch", "watched_sums")
_OWN_METHODS = ("register", "firing", "status", "confirm")
_TRIAL_METHODS = ("look", "looked", "push", "gauge", "moved")
_RECORDING_METHODS = ("set_probes", "collect", "discard", "likelihood", "divergence")


class WorkerState:
    """Layers, settings and recordings of one process that has (a part of) the model."""

    def __init__(
        self,
        model: nn.Module,
        deployment: Deployment,
        *,
        layers: int,
        hidden: int,
        max_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
        runs_ahead: bool = False,
    ) -> None:
        self.model, self.deployment, self.hidden = model, deployment, hidden
        self.device = device
        self.runs_ahead = runs_ahead
        """Whether vLLM schedules a step before it knows what the one before has drawn."""
        self.ends_EN = torch.full((1, 1), -1, device=device)
        """The book's sets of tokens that end answers, for the device."""
        self.steered = set(range(layers) if deployment.layers is None else deployment.layers)
        """Layers that can be steered, those of other pipeline stages included."""
        beyond = sorted(layer for layer in self.steered if not 0 <= layer < layers)
        if beyond:
            raise ModelMismatchError(
                f"layers {beyond} are to be held, but this model's are 0 to {layers - 1}; "
                "use floors of this model"
            )
        self.shared = TokenMaps(deployment, max_tokens, device)
        self.book = TokenBook(rows_of(deployment))
        self.names: dict[str, int] = {}
        self.fingerprints: dict[str, str] = {}
        self.has_settings = False
        """Whether a setting ever came; before, vLLM warms up with requests of its own."""
        self.current: StepMaps | None = None
        self.steps = 0
        self.layers: dict[int, SteeredLayer] = {}
        """Layers of this process that are steered or recorded."""
        is_recorded = deployment.recordings > 0 or deployment.probes > 0
        here = find_layers(model, layers)
        kinds = {kind: read_source(kind) for kind in {type(layer) for layer in here.values()}}
        sources = {number: kinds[type(layer)] for number, layer in here.items()}
        if dtype == torch.float16:
            _refuse_float16(sources.values())
        for number, layer in here.items():
            is_steered = number in self.steered
            is_first = not any(layer.is_steered for layer in self.layers.values())
            if is_recorded or is_steered or number == deployment.watched_layer:
                self.layers[number] = SteeredLayer(
                    self.shared,
                    layer=number,
                    hidden=hidden,
                    device=device,
                    is_steered=is_steered,
                    is_first=is_first,
                    is_sum=sources[number].is_sum,
                )
                wrap(layer, self.layers[number])
        self.watching: WatchedAnswers | None = None
        if deployment.watched_layer is not None:
            watched = self.layers.get(deployment.watched_layer)
            steered = sum(layer.is_steered for layer in self.layers.values())
            self.watching = WatchedAnswers(watched, self.book, device, steered)
        has_head = layers - 1 in here
        self.trials = StreamTrials(model, self.shared, here, sources, has_head=has_head)
        self.recordings = Recordings(
            self.layers,
            self.book,
            layers=layers,
            hidden=hidden,
            room=deployment.probes,
            left_out_R=self.shared.left_out_R,
            logits=(lambda stream: model.compute_logits(stream)) if has_head else None,  # type: ignore[operator]
        )

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method for the engine: of this class, of `StreamTrials` or of `Recordings`.

        Raises ValueError for any other.
        """
        if method in _OWN_METHODS:
            return getattr(self, method)(*arguments)
        if method in _RECORDING_METHODS:
            return getattr(self.recordings, method)(*arguments)
        if method in _WATCH_METHODS and self.watching is not None:
            return getattr(self.watching, method)(*arguments)
        if method in _TRIAL_METHODS:
            return getattr(self.trials, method)(*arguments)
        known = ", ".join(sorted(_OWN_METHODS + _TRIAL_METHODS + _RECORDING_METHODS))
        raise ValueError(f"unknown request {method!r}, expected one of {known}")

    def register(self, name: str, packed: bytes) -> None:
        """Write a setting under a name into every layer; an empty one is forgotten.

        Raises UsageError without a free slot or for layers that this engine does not steer.
        """
        setting = PackedInterventions.from_bytes(name, packed)
        if name == OFF:
            raise UsageError(f"{OFF!r} is the setting that does nothing; choose another name")
        if not setting:
            self._write(self.names.pop(name, 0), None)
            self.fingerprints.pop(name, None)
            return
        self._check(setting)
        slot = self.names.get(name) or self._free_slot()
        self._write(slot, setting)
        self.names[name] = slot
        self.fingerprints[name] = setting.fingerprint
        self.has_settings = True

    def confirm(self, expected: dict[str, str]) -> None:
        """Refuse settings other than those that the server answers for, by their fingerprints.

        Raises ModelMismatchError, which names the machine.
        """
        names = {*self.fingerprints, *expected}
        other = [n for n in sorted(names) if self.fingerprints.get(n) != expected.get(n)]
        if other:
            raise ModelMismatchError(
                f"a worker on {socket.gethostname()} holds other floors than the server that it "
                f"belongs to ({', '.join(other)}); start both with the same KEEL_FLOORS"
            )

    def status(self) -> dict[str, Any]:
        """Layers steered here, names of settings, and the number of steps followed."""
        steered = [n for n, layer in self.layers.items() if layer.is_steered]
        return {"layers": steered, "settings": sorted(self.names), "steps": self.steps}

    def note_requests(self, scheduled: Any) -> None:
        """Note requests that came and went, from vLLM's scheduler output."""
        if self.watching is not None:
            self.watching.end(scheduled.finished_req_ids)
        self.book.forget(scheduled.finished_req_ids)
        for new in scheduled.scheduled_new_reqs:
            parameters = new.sampling_params
            arguments = (parameters.extra_args if parameters is not None else None) or {}
            name = arguments.get(KEY, self.deployment.default if self.has_settings else OFF)
            prompt_ids = new.prompt_token_ids
            if prompt_ids is None:  # given as embeddings: only their number is known
                prompt_ids = (0,) * new.prompt_len
            ends = _ends_of(parameters) if self.runs_ahead and parameters is not None else ()
            watch_key = None if self.watching is None else key_of(arguments, new.req_id)
            self.book.admit(new.req_id, self._slot(name), prompt_ids, arguments, ends, watch_key)
        if len(self.book.ends) > len(self.ends_EN):
            self.ends_EN = _table_of(self.book.ends).to(self.device)

    def begin(
        self,
        requests: Sequence[str],
        starts: Sequence[int],
        counts: Sequence[int],
        ids_T: Int[Tensor, " token"] | None = None,
    ) -> None:
        """Fill the maps for a forward pass over these tokens.

        `ids_T` are the tokens, on the model's device; needed where vLLM schedules ahead.
        """
        self.current = self.book.step_maps(requests, starts, counts)
        self.shared.fill(self.current)
        if self.runs_ahead:
            assert ids_T is not None
            self.shared.leave_out_ends(ids_T, self.ends_EN)
        self.shared.ran_eagerly = False

    @property
    def wants_eager(self) -> bool:
        """Whether the coming pass must not run as a compiled graph.

        Compiled for a CPU, a step adds one token to a recording and no more: enough for answers in
        the making, not for given turns, which are read many tokens at once. No graph has trials.
        """
        return self.shared.trial is not None or self._is_crowded

    @property
    def _is_crowded(self) -> bool:
        """Whether the pass adds several tokens to a recording, on a CPU."""
        on_cpu = self.device.type == "cpu"
        return on_cpu and self.current is not None and self.current.is_crowded

    def end(self, output: Any) -> None:
        """Record what the pass wrote per token, and leave maps that do nothing.

        Raises NotAppliedError where it ran as a graph that cannot record it.
        """
        if self.current is not None:
            if self._is_crowded and not self.shared.ran_eagerly:
                raise NotAppliedError(
                    "vLLM read recorded turns in its compiled graph, which on a CPU can add one "
                    "token at a time; start the engine with eager=true"
                )
            self.steps += 1
            self.recordings.take(self.current, output)
            if self.watching is not None:
                self.watching.take(self.current, self.shared)
            self.shared.clear()
            self.current = None

    def firing(self, name: str) -> dict[int, tuple[int, int]]:
        """Tokens seen and tokens moved under a setting so far, per layer.

        Raises NotAppliedError when a layer saw fewer tokens than were computed.
        """
        slot = self._slot(name)
        expected = self.book.tallied.get(slot, 0) - int(self.shared.left_out_S[slot])
        firing = {}
        for number, layer in self.layers.items():
            if layer.is_steered:
                seen, fired = layer.tally_S2[slot].tolist()
                if seen != expected:
                    raise NotAppliedError(
                        f"layer {number} saw {seen} of {expected} tokens under {name!r}; "
                        "something runs the model past Keel: do not trust these outputs"
                    )
                firing[number] = (seen, fired)
        return firing

    def _slot(self, name: object) -> int:
        if name == OFF:
            return 0
        if name not in self.names:
            raise UsageError(f"setting {name!r} is not registered in this worker")
        return self.names[str(name)]

    def _free_slot(self) -> int:
        # What is held globally is read from the first slot, whatever the others hold.
        room = 1 if self.deployment.is_global else self.deployment.settings
        for slot in range(1, room + 1):
            if slot not in self.names.values():
                return slot
        raise UsageError(
            f"this engine has room for {room} settings and holds {', '.join(self.names)}; forget "
            "one, or start it for more, per request"
        )

    def _write(self, slot: int, setting: PackedInterventions | None) -> None:
        """Write a setting into a slot of every layer, or clear it, and count its firing anew."""
        if not slot:
            return
        self.book.tallied.pop(slot, None)
        self.book.sparing.discard(slot)
        if setting is not None and setting.spares_first:
            self.book.sparing.add(slot)
        self.shared.left_out_S[slot] = 0
        for layer in self.layers.values():
            layer.write(slot, setting)
            if layer.is_steered:
                layer.tally_S2[slot] = 0

    def _check(self, setting: PackedInterventions) -> None:
        width = setting.directions_ND.shape[-1]
        if width != self.hidden:
            raise ModelMismatchError(
                f"setting {setting.name!r} has directions of {width} numbers, but this model's "
                f"residual stream has {self.hidden}; use that of this model"
            )
        unknown = sorted(set(setting.layers) - self.steered)
        if unknown:
            raise UsageError(
                f"setting {setting.name!r} acts at layers {unknown}, but this engine was started "
                f"for {sorted(self.steered)}; start it for those, too"
            )
        most = setting.most_per_layer
        if most > self.deployment.steps:
            raise UsageError(
                f"setting {setting.name!r} has {most} interventions at one layer, but this engine "
                f"was started for {self.deployment.steps}; give steps={most}"
            )
        _ = setting.spares_first  # refused here, before anything is written
        if self.deployment.is_global and bool(setting.masks_N.any()):
            raise UsageError("a global deployment holds all tokens; token masks need per-request")


def _ends_of(parameters: Any) -> frozenset[int]:
    """Tokens that end a request's answer, from its `vllm.SamplingParams`."""
    own = parameters.eos_token_id  # None where it is to be ignored
    return frozenset((*(parameters.stop_token_ids or ()), *(() if own is None else (own,))))


def _table_of(sets: Iterable[frozenset[int]]) -> Int[Tensor, "set end"]:
    """Sets of tokens as rows, filled up with −1."""
    rows = [torch.tensor(sorted(ends), dtype=torch.int64) for ends in sets]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def _refuse_float16(sources: Iterable[StreamSource]) -> None:
    """Refuse layers that divide their stream in float16. Raises ModelLayoutError."""
    for source in sources:
        if source.is_scaled_in_float16:
            raise ModelLayoutError(
                f"{source.kind} computes otherwise in float16, where it may divide its residual "
                "stream: floors and means would be off by that factor; start with dtype bfloat16 "
                "or float32"
            )


def steer_runner(runner: Any, deployment: Deployment) -> WorkerState:
    """Steer a loaded runner's model, and follow its steps."""
    model = runner.get_model() if hasattr(runner, "get_model") else runner.model
    config = runner.vllm_config.model_config
    worker = WorkerState(
        model,
        deployment,
        layers=int(config.get_total_num_hidden_layers()),
        hidden=int(config.get_hidden_size()),
        max_tokens=_max_rows(runner.vllm_config),
        device=torch.device(runner.device),
        dtype=config.dtype,
        runs_ahead=bool(runner.vllm_config.scheduler_config.async_scheduling),
    )
    if hasattr(runner, "_prepare_inputs"):
        follow_v1(runner, worker)
    else:
        follow_v2(runner, worker)
    return worker


def follow_v1(runner: Any, worker: WorkerState) -> None:
    """Fill the maps after V1 has laid out its batch, and clear them after the forward pass."""
    execute, prepare, forward = runner.execute_model, runner._prepare_inputs, runner._model_forward

    def execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        worker.note_requests(scheduler_output)
        return execute(scheduler_output, *args, **kwargs)

    def prepare_inputs(scheduler_output: Any, counts: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = prepare(scheduler_output, counts, *args, **kwargs)
        batch = runner.input_batch
        requests = batch.req_ids[: batch.num_reqs]
        starts = batch.num_computed_tokens_cpu[: batch.num_reqs]
        worker.begin(requests, starts.tolist(), counts.tolist(), runner.input_ids.gpu)
        return inputs

    def model_forward(*args: Any, **kwargs: Any) -> Any:
        if worker.wants_eager:
            _run_plainly()
        output = forward(*args, **kwargs)
        worker.end(output)
        return output

    runner.execute_model = execute_model
    runner._prepare_inputs = prepare_inputs
    runner._model_forward = model_forward
    if worker.device.type == "cpu":
        keep_generators(runner)


def _run_plainly(*_: Any) -> None:
    """Let the pass that is about to run do so as plain code, as vLLM itself does with encoders."""
    from vllm.config import CUDAGraphMode
    from vllm.forward_context import get_forward_context

    context = get_forward_context()
    context.skip_compiled = True
    context.cudagraph_runtime_mode = CUDAGraphMode.NONE


def keep_generators(runner: Any) -> None:
    """Draw nothing from the seeds of prompts of which a step reads but a part.

    vLLM 0.32 draws a token for them, too, and then turns their generators back by an offset, which
    generators of the CPU do not have: it dies. Without one, such a row draws from the common one.
    """
    sample = runner.sample_tokens

    def sample_tokens(*args: Any, **kwargs: Any) -> Any:
        batch = runner.input_batch
        is_partial = runner.discard_request_mask.np[: batch.num_reqs]
        kept = {row: batch.generators.pop(row) for row in [*batch.generators] if is_partial[row]}
        try:
            return sample(*args, **kwargs)
        finally:
            batch.generators.update(kept)

    runner.sample_tokens = sample_tokens


def follow_v2(runner: Any, worker: WorkerState) -> None:
    """Fill the maps from V2's own batch, and clear them after the step."""
    execute, prepare = runner.execute_model, runner.prepare_inputs

    def execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        worker.note_requests(scheduler_output)
        output = None
        try:
            with plain_v2(worker.model) if worker.wants_eager else nullcontext():
                result = execute(scheduler_output, *args, **kwargs)
            # The model's output waits here to be sampled from; None before the last stage.
            output = getattr(runner.execute_model_state, "hidden_states", None)
            return result
        finally:
            worker.end(output)

    def prepare_inputs(*args: Any, **kwargs: Any) -> Any:
        batch = prepare(*args, **kwargs)
        begin_v2(worker, batch)
        return batch

    runner.execute_model = execute_model
    runner.prepare_inputs = prepare_inputs


@contextmanager
def plain_v2(model: nn.Module) -> Iterator[None]:
    """Let V2's steps in this context run the model as plain code, in no graph."""
    from vllm.v1.worker.gpu import model_runner

    dispatch = model_runner.dispatch_cg_and_sync_dp

    def eager(*args: Any, **kwargs: Any) -> Any:
        return dispatch(*args, **{**kwargs, "need_eager": True})

    hook = model.register_forward_pre_hook(_run_plainly)
    model_runner.dispatch_cg_and_sync_dp = eager
    try:
        yield
    finally:
        model_runner.dispatch_cg_and_sync_dp = dispatch
        hook.remove()


def begin_v2(worker: WorkerState, batch: Any) -> None:
    """Fill the maps from a V2 `InputBatch`."""
    starts = batch.num_computed_tokens_np.tolist()
    # Not num_scheduled_tokens: with drafts that is an upper bound.
    edges = batch.query_start_loc_np[: batch.num_reqs + 1].tolist()
    counts = [after - edge for edge, after in pairwise(edges)]
    worker.begin(batch.req_ids, starts, counts, batch.input_ids)


def _max_rows(vllm_config: Any) -> int:
    """Rows that a forward pass can have, padding to a graph's size included."""
    scheduled = int(vllm_config.scheduler_config.max_num_batched_tokens)
    sizes = vllm_config.compilation_config.cudagraph_capture_sizes or [0]
    return max(scheduled, *(int(size) for size in sizes)) + 64
