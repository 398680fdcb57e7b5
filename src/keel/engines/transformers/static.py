"""Runs a batch over a cache of fixed size, so that each step is the same work on the same memory.

Such a step can be captured once as a CUDA graph and replayed, without Python between its kernels.
Whether a model allows it is tried, never known from its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import StaticCache

from keel.engines.transformers.running import RowAxes, cache_name, prepared, tensors_in
from keel.errors import ModelLayoutError

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Makes of a step a function that repeats its work on the device; the step need not have run."""


def capture_graph(device: torch.device, step: Callable[[], None]) -> Callable[[], None]:
    """The step as a CUDA graph; its kernels have run before, so that libraries are ready."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with (
        torch.cuda.device(device),
        torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
    ):
        step()
    return graph.replay


class StaticRows:
    """Rows of equal length whose state keeps its size and its place in memory from step to step.

    Only the first pass, over the prompts, is of another shape.
    """

    def __init__(self, model: Any, ids_BT: Tensor, state: dict[str, Any], new_tokens: int) -> None:
        self.model, self.ids_BT, self.state = model, ids_BT, state
        self.width, self.new_tokens = ids_BT.shape[1], new_tokens
        self.is_begun = False
        self.inputs: dict[str, Any] = {}

    def prepare(self) -> int:
        """Make the next pass ready; the number of tokens of each row that it runs."""
        self.inputs = self.model.prepare_inputs_for_generation(
            self.ids_BT,
            next_sequence_length=1 if self.is_begun else None,
            is_first_iteration=not self.is_begun,
            **self.state,
        )
        return int(self.inputs["input_ids"].shape[1])

    def run(self) -> Float[Tensor, "row vocabulary"]:
        """Run the pass that is ready; logits of each row's next token."""
        outputs = self.model(**self.inputs, return_dict=True)
        if self.is_begun:
            self.state["position_ids"].add_(1)
        else:
            self._fix(outputs)
        logits: Tensor = outputs.logits[:, -1]
        return logits

    def append(self, tokens_B: Int[Tensor, " row"]) -> None:
        """Give each row one more token."""
        self.ids_BT.copy_(tokens_B[:, None])

    def keep(self, indices: Int[Tensor, " index"], axes: RowAxes) -> bool:
        """False: all rows stay, since others would lie elsewhere in memory."""
        return False

    def _fix(self, outputs: Any) -> None:
        """Bring ids, mask and positions to the shape that they have in every step.

        Raises ModelLayoutError where the model keeps more than these and a cache.
        """
        update = self.model._update_model_kwargs_for_generation
        state = update(outputs, self.state, is_encoder_decoder=False)
        name = cache_name(state)
        kept = {part for part, value in state.items() if part != name and tensors_in(value)}
        kinds = {type(layer).__name__ for layer in state[name].layers}
        strange = sorted(kinds - {"StaticLayer"} | kept - {"attention_mask", "position_ids"})
        if strange:
            raise ModelLayoutError(
                f"its state holds {', '.join(strange)}, expected StaticLayer only"
            )
        # Tokens to come count as there: a query sees none behind itself in any case.
        mask_BT = torch.nn.functional.pad(
            state["attention_mask"], (0, self.new_tokens - 1), value=1
        )
        position_ids = state["position_ids"][..., -1:].clone()
        self.state = {**state, "attention_mask": mask_BT, "position_ids": position_ids}
        self.ids_BT = self.ids_BT[:, -1:].clone()
        self.is_begun = True


def begin_static(model: Any, ids_BT: Tensor, mask_BT: Tensor, *, new_tokens: int) -> StaticRows:
    """A left-padded batch over a cache of fixed size, of which nothing has run yet."""

    def rows(model: Any, ids_BT: Tensor, state: dict[str, Any]) -> StaticRows:
        config, length = model.config.get_text_config(decoder=True), ids_BT.shape[1] + new_tokens
        cache = StaticCache(config=config, max_cache_len=length)
        return StaticRows(model, ids_BT, {**state, cache_name(state): cache}, new_tokens)

    return prepared(rows, model, ids_BT, mask_BT, max_new_tokens=new_tokens, use_cache=True)
