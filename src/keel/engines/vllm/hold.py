"""Keel in one vLLM worker: the held layers, the settings they know, and what was recorded.

One per process that holds (a part of) the model. Answers what the engine asks of all workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from keel.engines.vllm.deployment import OFF, Deployment
from keel.engines.vllm.layers import TRASH, HeldLayer, Shared, find_layers, wrap
from keel.engines.vllm.ledger import Ledger, Rows
from keel.engines.vllm.setting import Setting
from keel.errors import ModelMismatchError, NotAppliedError, UsageError

ASKED = frozenset(
    "register set_probes collect likelihood divergence firing reset_firing status".split()
)
"""What the engine may ask of a worker."""
_SCORED_AT_ONCE = 64
"""Predictions whose logits are made at once."""


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
        self.shared = Shared(deployment, max_tokens, device)
        self.ledger = Ledger(deployment.recordings)
        self.names: dict[str, int] = {}
        self.held: dict[int, HeldLayer] = {}
        self.probes: list[tuple[int, int]] = []
        """(layer, column there) of each probe, in the order in which they were given."""
        self.heights: dict[str, list[tuple[int, Tensor]]] = {}
        self.scores: dict[str, list[Tensor]] = {}
        self.steps = 0
        steered = set(range(layers) if deployment.layers is None else deployment.layers)
        _check_layers(steered, layers)
        recorded = deployment.recordings > 0 or deployment.probes > 0
        for number, layer in find_layers(model, layers).items():
            if number in steered or recorded:
                self.held[number] = HeldLayer(
                    self.shared,
                    layer=number,
                    hidden=hidden,
                    device=device,
                    is_steered=number in steered,
                )
                wrap(layer, self.held[number])

    def register(self, name: str, packed: bytes) -> None:
        """Hold a setting under a name from now on; an empty one is forgotten.

        Raises UsageError without a free slot or for layers that this engine does not steer.
        """
        setting = Setting.from_bytes(name, packed)
        if name == OFF:
            raise UsageError(f"{OFF!r} is the setting that does nothing; choose another name")
        if not setting.steps:
            self._write(self.names.pop(name, 0), None)
            return
        self._check(setting)
        slot = self.names.get(name) or self._free_slot()
        self._write(slot, setting)
        self.names[name] = slot

    def status(self) -> dict[str, Any]:
        """What is held here: layers, settings, steps followed."""
        steered = [n for n, held in self.held.items() if held.is_steered]
        return {"layers": steered, "settings": sorted(self.names), "steps": self.steps}

    def set_probes(self, packed: bytes) -> None:
        """Take per-token projections on these directions from now on.

        `packed` holds `layers` [probe] and `directions` [probe, hidden].
        """
        for held in self.held.values():
            if self.deployment.probes:
                held.probes_MD.zero_()
        self.probes, used = [], dict.fromkeys(self.held, 0)
        given = load(packed) if packed else {"layers": torch.zeros(0), "directions": torch.zeros(0)}
        for layer, direction in zip(given["layers"].tolist(), given["directions"], strict=True):
            layer = int(layer)
            if layer in self.held:  # else another pipeline stage holds it
                column = used[layer]
                if column >= self.deployment.probes:
                    raise UsageError(
                        f"more than {self.deployment.probes} probes at layer {layer}; start the "
                        "engine with more"
                    )
                self.held[layer].probes_MD[column] = direction.to(self.held[layer].probes_MD)
                used[layer] += 1
                self.probes.append((layer, column))
            else:
                self.probes.append((layer, -1))

    def take_note(self, scheduled: Any) -> None:
        """Learn of requests that came and went, from vLLM's scheduler output."""
        self.ledger.forget(scheduled.finished_req_ids)
        for new in scheduled.scheduled_new_reqs:
            parameters = new.sampling_params
            arguments = (parameters.extra_args if parameters is not None else None) or {}
            name = arguments.get("keel", self.deployment.default)
            prompt_ids = new.prompt_token_ids or ()
            self.ledger.admit(new.req_id, self._slot(name), prompt_ids, arguments)

    def begin(self, requests: Sequence[str], starts: Sequence[int], counts: Sequence[int]) -> None:
        """Fill the maps for a forward pass over these tokens."""
        rows = self.ledger.rows(requests, starts, counts)
        self.current: Rows | None = rows
        total = len(rows.phase_T)
        for target, source in (
            (self.shared.phase_T, rows.phase_T),
            (self.shared.sums_row_T, rows.sums_row_T),
            (self.shared.tally_row_T, rows.tally_row_T),
        ):
            target[:total].copy_(torch.from_numpy(source), non_blocking=True)
        self.filled = total

    def end(self, output: Any) -> None:
        """Take what the pass wrote per token, and leave maps that do nothing."""
        rows = getattr(self, "current", None)
        if rows is None:
            return
        self.current = None
        self.steps += 1
        if self.probes:
            self._take_heights(rows)
        if rows.predicting and isinstance(output, Tensor):
            for key, first, count in rows.predicting:
                self.scores.setdefault(key, []).append(output[first : first + count].clone())
        self.shared.phase_T[: self.filled] = 0
        self.shared.tally_row_T[: self.filled] = 0
        if self.deployment.recordings:
            spare = torch.arange(self.filled, device=self.shared.sums_row_T.device) % TRASH
            self.shared.sums_row_T[: self.filled] = spare + self.deployment.recordings

    def collect(self, keys: Sequence[str]) -> bytes:
        """What was recorded under these keys, which are forgotten.

        Tensors `KEY/TURN/sums` [layer, hidden], `/norms` [layer], `/heights` [token, probe],
        `/tokens`; the sums of layers that other pipeline stages hold are zero.
        """
        found: dict[str, Tensor] = {}
        for key in keys:
            claim = self.ledger.close(key)
            for number, turn in enumerate(claim.turns):
                place = f"{key}/{number}"
                found[f"{place}/tokens"] = torch.tensor([turn.tokens])
                if turn.row >= 0:
                    found[f"{place}/sums"] = self._gather("sums_RD", turn.row)
                    found[f"{place}/norms"] = self._gather("norms_R", turn.row)
                parts = [p for n, p in self.heights.get(key, []) if n == number]
                if parts:
                    found[f"{place}/heights"] = torch.cat(parts)
            self.heights.pop(key, None)
            self.scores.pop(key, None)
        return save(found)

    def likelihood(self, key: str) -> bytes:
        """Log-likelihood of each recorded token, turn after turn."""
        claim = self.ledger.by_key[key]
        actual = [claim.prompt_ids[n] for t in claim.turns for n in range(max(t.start, 1), t.stop)]
        parts = []
        for hidden, ids in _chunks(self._predictions(key), torch.tensor(actual)):
            logits = self._logits(hidden)
            log_p = torch.log_softmax(logits.float(), -1)
            parts.append(log_p.gather(-1, ids.to(log_p.device)[:, None])[:, 0].cpu())
        return save({"log_likelihood": torch.cat(parts) if parts else torch.zeros(0)})

    def divergence(self, plain: str, steered: str) -> bytes:
        """KL(plain ‖ steered) of what the two predict for each recorded token, in nats."""
        parts = []
        for left, right in _chunks(self._predictions(plain), self._predictions(steered)):
            log_p = torch.log_softmax(self._logits(left).float(), -1)
            log_q = torch.log_softmax(self._logits(right).float(), -1)
            parts.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0).cpu())
        return save({"kl": torch.cat(parts) if parts else torch.zeros(0)})

    def firing(self, name: str) -> dict[int, tuple[int, int]]:
        """Tokens seen and tokens moved under a setting so far, per layer.

        Raises NotAppliedError when a layer saw fewer tokens than were computed.
        """
        slot = self.names[name]
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
        slot = self.names[name]
        self.ledger.tallied.pop(slot, None)
        for held in self.held.values():
            if held.is_steered:
                held.tally_S2[slot] = 0

    def _slot(self, name: object) -> int:
        if name == OFF:
            return 0
        if name not in self.names:
            raise UsageError(f"setting {name!r} is not registered in this worker")
        return self.names[str(name)]

    def _free_slot(self) -> int:
        for slot in range(1, self.deployment.settings + 1):
            if slot not in self.names.values():
                return slot
        raise UsageError(
            f"all {self.deployment.settings} settings of this engine are taken; forget one, or "
            "start it with more"
        )

    def _write(self, slot: int, setting: Setting | None) -> None:
        if slot:
            for held in self.held.values():
                held.hold(slot, setting)
            self._zero_tally(slot)

    def _zero_tally(self, slot: int) -> None:
        self.ledger.tallied.pop(slot, None)
        for held in self.held.values():
            if held.is_steered:
                held.tally_S2[slot] = 0

    def _check(self, setting: Setting) -> None:
        width = setting.steps[0].direction.shape[-1]
        if width != self.hidden:
            raise ModelMismatchError(
                f"setting {setting.name!r} has directions of {width} numbers, but this model's "
                f"residual stream has {self.hidden}; use that of this model"
            )
        here = self.deployment.layers
        unknown = [n for n in setting.layers if here is not None and n not in here]
        if unknown:
            raise UsageError(
                f"setting {setting.name!r} acts at layers {unknown}, but this engine was started "
                f"for {list(here or ())}; start it for those, too"
            )
        if setting.most_steps > self.deployment.steps:
            raise UsageError(
                f"setting {setting.name!r} has {setting.most_steps} interventions at one layer, "
                f"but this engine was started for {self.deployment.steps}; give steps="
                f"{setting.most_steps}"
            )
        if self.deployment.is_global and any(step.tokens != "all" for step in setting.steps):
            raise UsageError("a global deployment holds all tokens; token masks need per-request")

    def _take_heights(self, rows: Rows) -> None:
        for key, turn, begin, end in rows.taken:
            columns = [
                self.held[layer].heights_TM[begin:end, column]
                if column >= 0
                else torch.zeros(end - begin, device=self.shared.phase_T.device)
                for layer, column in self.probes
            ]
            self.heights.setdefault(key, []).append((turn, torch.stack(columns, -1).cpu()))

    def _gather(self, name: str, row: int) -> Tensor:
        """The row's sums at every layer of the model, and zero for the next recording."""
        parts = {}
        for number, held in self.held.items():
            table = getattr(held, name)
            parts[number] = table[row].cpu().clone()
            table[row] = 0
        total = max(self.held) + 1
        first = next(iter(parts.values()))
        return torch.stack([parts.get(n, torch.zeros_like(first)) for n in range(total)])

    def _predictions(self, key: str) -> Tensor:
        kept = self.scores.get(key, [])
        return torch.cat(kept) if kept else torch.zeros(0, self.hidden)

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


def _chunks(left: Tensor, right: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    if len(left) != len(right):
        raise NotAppliedError(f"{len(left)} predictions against {len(right)}; read again")
    return zip(left.split(_SCORED_AT_ONCE), right.split(_SCORED_AT_ONCE), strict=True)
