"""Small stand-ins for what vLLM hands to Keel: layers, models, schedules. They need no vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from keel.engines.vllm.deployment import Deployment
from keel.engines.vllm.layers import SteeredLayer, TokenMaps
from keel.engines.vllm.token_book import TRASH, StepMaps
from keel.engines.vllm.worker import WorkerState
from keel.geometry import unit

HIDDEN = 16
CPU = torch.device("cpu")


def direction(seed: int = 0, hidden: int = HIDDEN) -> Tensor:
    """A random unit direction."""
    return unit(torch.randn(hidden, generator=torch.Generator().manual_seed(seed)))


def tokens(count: int, seed: int = 9, hidden: int = HIDDEN) -> Tensor:
    """What a layer gives for so many tokens."""
    return 3 * torch.randn(count, hidden, generator=torch.Generator().manual_seed(seed))


def held_layer(
    deployment: Deployment, *, layer: int = 0, slots: int = 32, is_sum: bool = True
) -> SteeredLayer:
    """One held layer by itself; its map is `held.shared`."""
    shared = TokenMaps(deployment, slots, CPU)
    return SteeredLayer(
        shared,
        layer=layer,
        hidden=HIDDEN,
        device=CPU,
        is_steered=True,
        is_first=True,
        is_sum=is_sum,
    )


def rows(
    phases: Sequence[int],
    sums: Sequence[int] | None = None,
    tally: Sequence[int] | None = None,
    recordings: int = 0,
) -> StepMaps:
    """The maps of a step, a number per token."""
    spare = [recordings + n % TRASH for n in range(len(phases))]
    return StepMaps(
        np.array(
            [
                phases,
                spare if sums is None else sums,
                [0] * len(phases) if tally is None else tally,
                [0] * len(phases),
                [0] * len(phases),
            ],
            dtype=np.int64,
        ),
        [],
        [],
    )


class ToyLayer(nn.Module):
    """A decoder layer as most are in vLLM: the last layer's output is added to the stream late."""

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.mix = nn.Linear(hidden, hidden)

    def forward(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        stream = hidden if residual is None else hidden + residual
        return torch.tanh(self.mix(stream)), stream


class PPMissingLayer(nn.Identity):
    """Named as vLLM names a layer that another pipeline stage holds."""

    def forward(self, *args: Any) -> Any:
        return args if len(args) > 1 else args[0]


class ToyModel(nn.Module):
    """Layers `held` of `layers`, and a head; the rest is elsewhere."""

    def __init__(self, layers: int = 3, held: range | None = None, vocabulary: int = 11) -> None:
        super().__init__()
        torch.manual_seed(1)
        made = [ToyLayer() for _ in range(layers)]
        kept = range(layers) if held is None else held
        self.layers = nn.ModuleList(
            made[n] if n in kept else PPMissingLayer() for n in range(layers)
        )
        self.head = nn.Linear(HIDDEN, vocabulary)

    def forward(self, stream: Tensor) -> Tensor:
        hidden, residual = stream, None
        with torch.no_grad():
            for layer in self.layers:
                if not isinstance(layer, PPMissingLayer):
                    hidden, residual = layer(hidden, residual)
        return hidden if residual is None else hidden + residual

    def compute_logits(self, stream: Tensor) -> Tensor:
        with torch.no_grad():
            return self.head(stream)


def hold(
    deployment: Deployment,
    model: ToyModel | None = None,
    slots: int = 64,
    *,
    runs_ahead: bool = False,
) -> WorkerState:
    """A worker's hold on a toy model."""
    model = ToyModel() if model is None else model
    return WorkerState(
        model,
        deployment,
        layers=len(model.layers),
        hidden=HIDDEN,
        max_tokens=slots,
        device=CPU,
        dtype=torch.float32,
        runs_ahead=runs_ahead,
    )


def request(
    name: str, prompt: int | Sequence[int], *, ends: Sequence[int] = (), **arguments: Any
) -> SimpleNamespace:
    """A request as vLLM's scheduler announces it to a worker; `ends` are tokens that end it."""
    parameters = SimpleNamespace(
        extra_args=arguments or None, stop_token_ids=list(ends[1:]), eos_token_id=(*ends, None)[0]
    )
    ids = list(range(prompt)) if isinstance(prompt, int) else list(prompt)
    return SimpleNamespace(
        req_id=name,
        prompt_token_ids=ids,
        sampling_params=parameters,
    )


def scheduled(*new: SimpleNamespace, finished: Sequence[str] = ()) -> SimpleNamespace:
    """What the scheduler tells a worker before a step."""
    return SimpleNamespace(finished_req_ids=set(finished), scheduled_new_reqs=list(new))


def compute(
    held: WorkerState, *parts: tuple[str, int, Tensor], ids: Sequence[int] | None = None
) -> Tensor:
    """One step: of each (request, first position, stream) the tokens pass through the model."""
    names, starts = [name for name, *_ in parts], [start for _, start, _ in parts]
    counts = [len(stream) for *_, stream in parts]
    held.begin(names, starts, counts, None if ids is None else torch.tensor(ids))
    output: Tensor = held.model(torch.cat([stream for *_, stream in parts]))
    held.end(output)
    return output
