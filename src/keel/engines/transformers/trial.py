"""Runs a model once on a few tokens as it is opened, so that what cannot work is said at once.

What the passes show (cache, logits, blocks that ran) is read from them, never from the config,
whose fields have other names and meanings in every family.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keel.errors import KeelError, ModelLayoutError
from keel.steering import Decoder
from keel.words import first_line

_TEXT = "The sea is wide and the sky is high, and who are you that walks here?"
_SHORT, _LONG = 6, 13
"""Tokens of the short row, and of the long one beside which it is padded, by a number that windows
of 2, 4 or 8 tokens do not divide."""


@dataclass(frozen=True)
class Trial:
    """What two passes over a few tokens of text show of a model."""

    vocabulary_size: int
    """Logits per token."""
    cache_bytes_per_token: int
    cache_bytes_per_row: int
    """Of states that do not grow with the tokens: linear attention, convolutions."""
    idle_layers: tuple[int, ...]
    """Blocks that do not run on text alone, such as cross-attention to an image."""


def try_model(model: Any, decoder: Decoder, tokenizer: Any, device: torch.device) -> Trial:
    """Run the model as `generate` does, on one row of text and on two of which one is padded.

    Raises ModelLayoutError where it cannot run on text, or where the blocks do not give one
    residual stream each, once a pass.
    """
    text = tokenizer(_TEXT, add_special_tokens=False)["input_ids"]
    long = (text * _LONG)[:_LONG]
    alone = _first_pass(model, decoder, [long[:_SHORT]], device)
    beside = _first_pass(model, decoder, [long, long[:_SHORT]], device)
    if not alone.runs:
        raise ModelLayoutError(
            f"no block of {decoder.path} runs on text; pass the path of the list that does, as in "
            "blocks='model.layers' (in a command: --blocks model.layers)"
        )
    # Two equations: a row holds its own bytes, and so many more for each token.
    growth = (beside.cache_bytes / 2 - alone.cache_bytes) / (_LONG - _SHORT)
    per_token = max(round(growth), 0)
    return Trial(
        vocabulary_size=alone.logits_BV.shape[-1],
        cache_bytes_per_token=per_token,
        cache_bytes_per_row=max(alone.cache_bytes - _SHORT * per_token, 0),
        idle_layers=tuple(n for n in range(len(decoder.blocks)) if not alone.runs[n]),
    )


@dataclass(frozen=True)
class _FirstPass:
    """What one pass over prompts gave."""

    logits_BV: Tensor
    """After each row's last token."""
    cache_bytes: int
    runs: Counter[int]
    """How often each block ran."""


def _first_pass(
    model: Any, decoder: Decoder, rows: Sequence[Sequence[int]], device: torch.device
) -> _FirstPass:
    """The first pass of `generate` over left-padded rows."""
    width = max(map(len, rows))
    ids_BT = torch.tensor([[row[0]] * (width - len(row)) + list(row) for row in rows])
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    runs: Counter[int] = Counter()

    def first_step(model: Any, input_ids: Tensor, **prepared: Any) -> _FirstPass:
        for name in ("logits_processor", "stopping_criteria", "generation_config", "streamer"):
            prepared.pop(name, None)
        prepared.pop("synced_gpus", None)
        inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **prepared)
        output = model(**inputs, return_dict=True)
        states = [value for name, value in output.items() if name not in ("logits", "loss")]
        return _FirstPass(output.logits[:, -1], _bytes_in(states), runs)

    with ExitStack() as stack, torch.inference_mode():
        for layer, block in enumerate(decoder.blocks):
            handle = block.register_forward_hook(_counting(layer, decoder, runs))
            stack.callback(handle.remove)
        try:
            result: _FirstPass = model.generate(
                input_ids=ids_BT.to(device),
                attention_mask=mask_BT.to(device),
                max_new_tokens=1,
                do_sample=False,
                custom_generate=first_step,
            )
        except KeelError:
            raise
        except Exception as error:
            raise ModelLayoutError(
                f"{type(model).__name__} cannot run on text alone: {first_line(error)}; expected "
                "a decoder-only language model that answers to input_ids"
            ) from error
    return result


def _counting(layer: int, decoder: Decoder, runs: Counter[int]) -> Any:
    """A hook that counts a block's runs and refuses what is no residual stream."""

    def hook(_block: nn.Module, _args: Any, output: Any) -> None:
        decoder.layout.stream_in(output)
        runs[layer] += 1
        if runs[layer] > 1:
            raise ModelLayoutError(
                f"block {layer} runs more than once in a forward pass (a looped model); Keel "
                "steers and reads blocks that run once, so that a layer means one activation"
            )

    return hook


def _bytes_in(value: Any) -> int:
    """Bytes of all tensors that a cache holds, whatever it is made of; shared ones count once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _tensors_in(value, set())
    }
    return sum(storages.values())


def _tensors_in(value: Any, visited: set[int]) -> Iterator[Tensor]:
    if id(value) in visited or isinstance(value, nn.Module):
        return
    visited.add(id(value))
    if isinstance(value, Tensor):
        yield value
        return
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        parts = list(getattr(value, "__dict__", {}).values())
    for part in parts:
        yield from _tensors_in(part, visited)
