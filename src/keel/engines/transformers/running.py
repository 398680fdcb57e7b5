"""Runs a batch of rows through a model pass by pass, with whatever state the model keeps of them.

transformers prepares the state (cache, mask, positions), so that each model's own rules hold.
Knows nothing of sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from copy import copy
from dataclasses import dataclass
from inspect import signature
from types import FunctionType
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache
from transformers.masking_utils import create_masks_for_generate

from keel.errors import ModelLayoutError

Path = tuple[Hashable, ...]
"""Where a tensor stands in nested objects: attribute names, keys and indices."""
Rows = TypeVar("Rows")
RowAxes = Mapping[Path, int | None]
"""Which axis of each tensor of a model's state counts the rows; None where no axis does."""


@dataclass(frozen=True)
class Passes:
    """How a model's passes are made while it generates."""

    reuses_state: bool = True
    """A pass runs new tokens only, given the state kept of those before; or all from the first."""
    takes_positions: bool = True
    """The model is given the positions that transformers counts; or it counts by itself."""
    is_mask_given: bool = False
    """The model is given its attention masks of a step whole; or makes them of the padding mask,
    for which transformers asks the device whether there is any padding."""


class RunningRows:
    """Rows of equal length, of which a model has seen all tokens or all but the last."""

    def __init__(
        self,
        model: Any,
        ids_BT: Tensor,
        state: dict[str, Any],
        new_tokens: int,
        passes: Passes,
        past_width: int = 0,
        *,
        is_padded: bool = True,
    ) -> None:
        self.model, self.state, self.passes = model, state, passes
        self.is_padded = is_padded
        """Whether some column holds no token of some row."""
        self.fresh = ids_BT.shape[1] - past_width if past_width else None
        """Columns of the first pass; None for all."""
        self.width = ids_BT.shape[1]
        """Tokens that each row has now."""
        self.room_BT = torch.nn.functional.pad(ids_BT, (0, new_tokens))
        self.is_begun = False
        self.inputs: dict[str, Any] = {}

    def prepare(self) -> int:
        """Make the next pass ready; the number of tokens of each row that it runs."""
        is_step = self.is_begun and self.passes.reuses_state
        self.inputs = self.model.prepare_inputs_for_generation(
            self.room_BT[:, : self.width],
            next_sequence_length=1 if is_step else self.fresh,
            is_first_iteration=not self.is_begun,
            **self.state,
        )
        if self.is_begun and self.passes.is_mask_given:
            self.inputs["attention_mask"] = self._masks()
        return int(self.inputs["input_ids"].shape[1])

    def _masks(self) -> Any:
        """The masks of a step; None where the model needs none, and may take a faster kernel."""
        if not self.is_padded and self.passes.takes_positions:
            return None
        return _whole_masks(self.model, self.inputs)

    def run(self) -> Float[Tensor, "row vocabulary"]:
        """Run the pass that is ready; logits of each row's next token."""
        outputs = self.model(**self.inputs, return_dict=True)
        update = self.model._update_model_kwargs_for_generation
        self.state = update(outputs, self.state, is_encoder_decoder=False)
        self.is_begun = True
        logits: Tensor = outputs.logits[:, -1]
        return logits

    def append(self, tokens_B: Int[Tensor, " row"]) -> None:
        """Give each row one more token."""
        self.room_BT[:, self.width].copy_(tokens_B)
        self.width += 1

    def keep(self, indices: Int[Tensor, " index"], axes: RowAxes) -> bool:
        """Go on with these rows only.

        False, and nothing is changed, where the state has a tensor that `axes` does not explain.
        """
        rows = len(self.room_BT)
        for path, tensor in tensors_in(self.state):
            axis = axes.get(path, -1)
            if axis is not None and (axis < 0 or tensor.shape[axis] != rows):
                return False

        def select(path: Path, tensor: Tensor) -> Tensor:
            axis = axes[path]
            return tensor if axis is None else tensor.index_select(axis, indices.to(tensor.device))

        self.state = _changed(self.state, select, (), set())
        self.room_BT = self.room_BT[indices.to(self.room_BT.device)]
        return True


def _like_compiled(cache: Cache) -> Cache:
    """The cache as transformers sees that of a compiled model.

    It makes masks for such a model without a look at the padding.
    """
    alike = copy(cache)
    kind = type(cache)
    alike.__class__ = type(kind.__name__, (kind,), {"is_compileable": True})
    return alike


def _whole_masks(model: Any, inputs: dict[str, Any]) -> Any:
    """The attention mask of a step by the model's own rules, or one for each kind of its layers."""
    ids_BT = inputs["input_ids"]
    make = getattr(model, "create_masks_for_generate", create_masks_for_generate)
    return make(
        model.config,
        torch.empty((*ids_BT.shape, 0), dtype=model.dtype, device=ids_BT.device),
        inputs["attention_mask"],
        _like_compiled(inputs[cache_name(inputs)]),
        inputs.get("position_ids"),
    )


def cache_name(state: Mapping[str, Any]) -> str:
    """Under which name a model is given its cache: it differs between releases of transformers.

    Raises ModelLayoutError where there is none.
    """
    for name, value in state.items():
        if isinstance(value, Cache):
            return name
    raise ModelLayoutError(f"the model is given {', '.join(state)}, expected a transformers.Cache")


def begin(
    model: Any,
    ids_BT: Tensor,
    mask_BT: Tensor,
    *,
    new_tokens: int,
    passes: Passes,
    past: Cache | None = None,
) -> RunningRows:
    """A left-padded batch as transformers prepares it for generation.

    Nothing has run yet but what gave `past`, the keys and values of its first columns.
    """
    past_width = 0 if past is None else int(past.get_seq_length())
    is_padded = not bool(mask_BT.all())

    def running(model: Any, ids_BT: Tensor, state: dict[str, Any]) -> RunningRows:
        if not passes.takes_positions:
            state.pop("position_ids", None)
        return RunningRows(
            model, ids_BT, state, new_tokens, passes, past_width, is_padded=is_padded
        )

    settings: dict[str, Any] = {"max_new_tokens": new_tokens, "use_cache": passes.reuses_state}
    if past is not None:
        settings[_cache_name(model)] = past
    return prepared(running, model, ids_BT, mask_BT, **settings)


def _cache_name(model: Any) -> str:
    """The model's argument for keys and values, which transformers 5.24 has renamed."""
    return "cache" if "cache" in signature(model.forward).parameters else "past_key_values"


def prepared(
    make: Callable[[Any, Tensor, dict[str, Any]], Rows],
    model: Any,
    ids_BT: Tensor,
    mask_BT: Tensor,
    **settings: Any,
) -> Rows:
    """What is made of the model, ids and state that `generate` with these settings begins with.

    The model is the one that generates: of an adapter's, the one inside.
    """

    def take(model: Any, input_ids: Tensor, **state: Any) -> Rows:
        for name in ("logits_processor", "stopping_criteria", "generation_config", "streamer"):
            state.pop(name, None)
        state.pop("synced_gpus", None)
        return make(model, input_ids, state)

    with torch.inference_mode():
        rows: Rows = model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            do_sample=False,
            custom_generate=take,
            **settings,
        )
    return rows


def row_axes(few: Any, more: Any) -> RowAxes | None:
    """Which axis counts the rows in each tensor of a state.

    Known from two states that differ in their numbers of rows only; None where the two do not say
    it.
    """
    shapes, axes = dict(tensors_in(more)), {}
    for path, tensor in tensors_in(few):
        other = shapes.pop(path, None)
        if other is None or other.ndim != tensor.ndim:
            return None
        differing = [n for n, size in enumerate(tensor.shape) if size != other.shape[n]]
        if len(differing) > 1:
            return None
        axes[path] = differing[0] if differing else None
    return None if shapes else axes


def tensors_in(state: Any) -> list[tuple[Path, Tensor]]:
    """All tensors in nested objects, with their paths."""
    tensors: list[tuple[Path, Tensor]] = []

    def note(path: Path, tensor: Tensor) -> Tensor:
        tensors.append((path, tensor))
        return tensor

    _changed(state, note, (), set())
    return tensors


def _changed(
    value: Any, change: Callable[[Path, Tensor], Tensor], path: Path, seen: set[int]
) -> Any:
    """The value with every tensor in it changed: objects in place, tuples anew."""
    if isinstance(value, Tensor):
        return change(path, value)
    if isinstance(value, tuple):
        return tuple(_changed(v, change, (*path, n), seen) for n, v in enumerate(value))
    if id(value) in seen or isinstance(value, nn.Module | type | FunctionType):
        return value
    seen.add(id(value))
    if isinstance(value, list):
        value[:] = [_changed(v, change, (*path, n), seen) for n, v in enumerate(value)]
        return value
    parts = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    for name, part in list(parts.items()):
        parts[name] = _changed(part, change, (*path, name), seen)
    return value
