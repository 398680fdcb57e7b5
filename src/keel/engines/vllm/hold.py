"""Keel in one vLLM worker: the held layers, the settings they know, and what was recorded.

One per process that holds (a part of) the model. Answers what the engine asks of all workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from keel.engines.vllm.deployment import KEY, OFF, Deployment
from keel.engines.vllm.finding import find_layers, wrap
from keel.engines.vllm.layers import HeldLayer, Shared
from keel.engines.vllm.ledger import Ledger, Rows
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.recordings import Recordings
from keel.errors import ModelMismatchError, NotAppliedError, UsageError

ASKED = frozenset(
    "register set_probes collect discard likelihood divergence firing reset_firing status".split()
)
"""What the engine may ask of a worker."""


class Hold:
    """What Keel does to one worker's part of the model."""

    def __init__(
        self,
        model: nn.Module,
        deployment: Deployment,
        *,
        layers: int,
        hidden: int,
        max_tokens: int,
        device: torch.device,
    ) -> None:
        self.model, self.deployment, self.hidden = model, deployment, hidden
        self.device = device
        self.steered = set(range(layers) if deployment.layers is None else deployment.layers)
        """Layers that can be steered, those of other pipeline stages included."""
        _check_layers(self.steered, layers)
        self.shared = Shared(deployment, max_tokens, device)
        self.ledger = Ledger(deployment.recordings)
        self.names: dict[str, int] = {}
        self.is_told = False
        """Whether a setting ever came; before, vLLM warms up with requests of its own."""
        self.current: Rows | None = None
        self.steps = 0
        found = find_layers(model, layers)
        self.held = self._hold(found, device)
        self.recordings = Recordings(
            self.held,
            self.ledger,
            layers=layers,
            hidden=hidden,
            room=deployment.probes,
            logits=self._logits if layers - 1 in found else None,
        )

    def register(self, name: str, packed: bytes) -> None:
        """Hold a setting under a name from now on; an empty one is forgotten.

        Raises UsageError without a free slot or for layers that this engine does not steer.
        """
        setting = PackedInterventions.from_bytes(name, packed)
        if name == OFF:
            raise UsageError(f"{OFF!r} is the setting that does nothing; choose another name")
        if not len(setting):
            self._write(self.names.pop(name, 0), None)
            return
        self._check(setting)
        slot = self.names.get(name) or self._free_slot()
        self._write(slot, setting)
        self.names[name] = slot
        self.is_told = True

    def status(self) -> dict[str, Any]:
        """What is held here: layers, settings, steps followed."""
        steered = [n for n, held in self.held.items() if held.is_steered]
        return {"layers": steered, "settings": sorted(self.names), "steps": self.steps}

    def take_note(self, scheduled: Any) -> None:
        """Learn of requests that came and went, from vLLM's scheduler output."""
        self.ledger.forget(scheduled.finished_req_ids)
        for new in scheduled.scheduled_new_reqs:
            parameters = new.sampling_params
            arguments = (parameters.extra_args if parameters is not None else None) or {}
            name = arguments.get(KEY, self.deployment.default if self.is_told else OFF)
            prompt_ids = new.prompt_token_ids
            if prompt_ids is None:  # given as embeddings: only their number is known
                prompt_ids = (0,) * new.prompt_len
            self.ledger.admit(new.req_id, self._slot(name), prompt_ids, arguments)

    def begin(self, requests: Sequence[str], starts: Sequence[int], counts: Sequence[int]) -> None:
        """Fill the maps for a forward pass over these tokens."""
        self.current = self.ledger.rows(requests, starts, counts)
        self.shared.fill(self.current)
        self.shared.ran_eagerly = False

    @property
    def wants_eager(self) -> bool:
        """Whether the coming pass must not run as a compiled graph.

        Compiled for a CPU, a step adds one token to a recording and no more: enough for answers in
        the making, not for given turns, which are read many tokens at once.
        """
        on_cpu = self.device.type == "cpu"
        return on_cpu and self.current is not None and self.current.is_crowded

    def end(self, output: Any) -> None:
        """Take what the pass wrote per token, and leave maps that do nothing.

        Raises NotAppliedError where it ran as a graph that cannot record it.
        """
        if self.current is not None:
            if self.wants_eager and not self.shared.ran_eagerly:
                raise NotAppliedError(
                    "vLLM read recorded turns in its compiled graph, which on a CPU can add one "
                    "token at a time; start the engine with eager=true"
                )
            self.steps += 1
            self.recordings.take(self.current, output)
            self.shared.clear()
            self.current = None

    def set_probes(self, packed: bytes) -> None:
        """Take per-token projections on these directions: see `Recordings`."""
        self.recordings.set_probes(packed)

    def collect(self, keys: Sequence[str]) -> bytes:
        """What was recorded under these keys, which are forgotten: see `Recordings`."""
        return self.recordings.collect(keys)

    def discard(self, keys: Sequence[str]) -> None:
        """Forget what was recorded under these keys, where there is anything."""
        self.recordings.collect([key for key in keys if key in self.ledger.by_key])

    def likelihood(self, key: str) -> bytes:
        """Log-likelihood of each recorded token: see `Recordings`."""
        return self.recordings.likelihood(key)

    def divergence(self, plain: str, steered: str) -> bytes:
        """KL(plain ‖ steered) at each recorded token: see `Recordings`."""
        return self.recordings.divergence(plain, steered)

    def firing(self, name: str) -> dict[int, tuple[int, int]]:
        """Tokens seen and tokens moved under a setting so far, per layer.

        Raises NotAppliedError when a layer saw fewer tokens than were computed.
        """
        slot = self._slot(name)
        expected = self.ledger.tallied.get(slot, 0)
        found = {}
        for number, held in self.held.items():
            if held.is_steered:
                seen, fired = held.tally_S2[slot].tolist()
                if seen != expected:
                    raise NotAppliedError(
                        f"layer {number} saw {seen} of {expected} tokens under {name!r}; "
                        "something runs the model past Keel: do not trust these outputs"
                    )
                found[number] = (seen, fired)
        return found

    def reset_firing(self, name: str) -> None:
        """Count from zero again."""
        self._zero_tally(self._slot(name))

    def _hold(self, found: Mapping[int, nn.Module], device: torch.device) -> dict[int, HeldLayer]:
        """The layers that are steered or recorded, from the next trace on."""
        is_recorded = self.deployment.recordings > 0 or self.deployment.probes > 0
        held = {}
        for number, layer in found.items():
            if is_recorded or number in self.steered:
                held[number] = HeldLayer(
                    self.shared,
                    layer=number,
                    hidden=self.hidden,
                    device=device,
                    is_steered=number in self.steered,
                )
                wrap(layer, held[number])
        return held

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
        if slot:
            for held in self.held.values():
                held.hold(slot, setting)
            self._zero_tally(slot)

    def _zero_tally(self, slot: int) -> None:
        self.ledger.tallied.pop(slot, None)
        for held in self.held.values():
            if held.is_steered:
                held.tally_S2[slot] = 0

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
        most = setting.most_at_one_layer
        if most > self.deployment.steps:
            raise UsageError(
                f"setting {setting.name!r} has {most} interventions at one layer, but this engine "
                f"was started for {self.deployment.steps}; give steps={most}"
            )
        if self.deployment.is_global and bool(setting.masks_N.any()):
            raise UsageError("a global deployment holds all tokens; token masks need per-request")

    def _logits(self, hidden: Tensor) -> Tensor:
        compute: Callable[[Tensor], Tensor] = self.model.compute_logits  # type: ignore[assignment]
        return compute(hidden)


def _check_layers(steered: Iterable[int], layers: int) -> None:
    beyond = sorted(layer for layer in steered if not 0 <= layer < layers)
    if beyond:
        raise ModelMismatchError(
            f"layers {beyond} are to be held, but this model's are 0 to {layers - 1}; "
            "use floors of this model"
        )
