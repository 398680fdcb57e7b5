"""How vLLM's two model runners tell whose tokens a step computes.

V1 (CPU, and GPUs with VLLM_USE_V2_MODEL_RUNNER=0) is what the tests run. V2's places are known
from its source; its per-request map was not seen on a GPU yet, so it is refused.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import torch

from keel.engines.vllm.deployment import Deployment
from keel.engines.vllm.hold import Hold
from keel.errors import UsageError


def hold_runner(runner: Any, deployment: Deployment) -> Hold:
    """Hold a loaded runner's model and follow its steps."""
    model = runner.get_model() if hasattr(runner, "get_model") else runner.model
    config = runner.vllm_config.model_config
    hold = Hold(
        model,
        deployment,
        layers=int(config.hf_text_config.num_hidden_layers),
        hidden=int(config.get_hidden_size()),
        max_tokens=_most_tokens(runner.vllm_config),
        device=torch.device(runner.device),
    )
    if _is_v2(runner):
        follow_v2(runner, hold, deployment)
    else:
        follow_v1(runner, hold)
    return hold


def follow_v1(runner: Any, hold: Hold) -> None:
    """Fill the maps after V1 has laid out its batch, and clear them after the forward pass."""
    execute, prepare, forward = runner.execute_model, runner._prepare_inputs, runner._model_forward

    def execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        hold.take_note(scheduler_output)
        return execute(scheduler_output, *args, **kwargs)

    def prepare_inputs(scheduler_output: Any, counts: Any, *args: Any, **kwargs: Any) -> Any:
        found = prepare(scheduler_output, counts, *args, **kwargs)
        batch = runner.input_batch
        requests = batch.req_ids[: batch.num_reqs]
        starts = batch.num_computed_tokens_cpu[: batch.num_reqs]
        hold.begin(requests, starts.tolist(), counts.tolist())
        return found

    def model_forward(*args: Any, **kwargs: Any) -> Any:
        if hold.wants_eager:
            _skip_compiled()
        output = forward(*args, **kwargs)
        hold.end(output)
        return output

    runner.execute_model = execute_model
    runner._prepare_inputs = prepare_inputs
    runner._model_forward = model_forward


def follow_v2(runner: Any, hold: Hold, deployment: Deployment) -> None:
    """The same for V2, whose batch says all by itself."""
    if not deployment.is_global and os.environ.get("KEEL_UNVERIFIED_V2") != "1":
        raise UsageError(
            "settings per request were not verified on vLLM's V2 model runner; start with "
            "VLLM_USE_V2_MODEL_RUNNER=0, or hold every request alike with KEEL_ENFORCE=1"
        )
    execute, prepare = runner.execute_model, runner.prepare_inputs

    def execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        hold.take_note(scheduler_output)
        try:
            return execute(scheduler_output, *args, **kwargs)
        finally:
            hold.end(None)

    def prepare_inputs(*args: Any, **kwargs: Any) -> Any:
        batch = prepare(*args, **kwargs)
        begin_v2(hold, batch)
        return batch

    runner.execute_model = execute_model
    runner.prepare_inputs = prepare_inputs


def begin_v2(hold: Hold, batch: Any) -> None:
    """Fill the maps from a V2 `InputBatch`."""
    starts = batch.num_computed_tokens_np.tolist()
    # Not num_scheduled_tokens: with drafts that is an upper bound.
    edges = batch.query_start_loc_np[: batch.num_reqs + 1].tolist()
    hold.begin(batch.req_ids, starts, [after - edge for edge, after in pairwise(edges)])


def _skip_compiled() -> None:
    """Let the pass that is about to begin run as plain code, as vLLM itself does with encoders."""
    from vllm.forward_context import get_forward_context

    get_forward_context().skip_compiled = True


def _is_v2(runner: Any) -> bool:
    return not hasattr(runner, "_prepare_inputs")


def _most_tokens(vllm_config: Any) -> int:
    """Rows that a forward pass can have, padding to a graph's size included."""
    scheduled = int(vllm_config.scheduler_config.max_num_batched_tokens)
    sizes = vllm_config.compilation_config.cudagraph_capture_sizes or [0]
    return max(scheduled, *(int(size) for size in sizes)) + 64
