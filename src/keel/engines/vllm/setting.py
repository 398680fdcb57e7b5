"""Named settings: interventions under a name, in the form in which workers hold them.

Every intervention is one step along a unit direction v that depends on the projection p alone:

    shift(p) = clamp(slope·p + offset, low − p, high − p)

so that floors, ceilings, additions and ablations are rows of numbers and not branches in a graph.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from keel.errors import UsageError
from keel.steering import Ablation, Addition, Ceiling, Intervention, in_order
from keel.types import Floor, TokenMask

_OURS = "keel:"
"""How the salts begin that Keel makes."""
_MASKS: tuple[TokenMask, ...] = ("all", "prompt", "generated")


@dataclass(frozen=True)
class Step:
    """One intervention as numbers."""

    layer: int
    direction: Float[Tensor, " hidden"]
    slope: float
    offset: float
    low: float
    high: float
    tokens: TokenMask

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """Slope, offset, low, high."""
        return self.slope, self.offset, self.low, self.high

    @property
    def is_bound(self) -> bool:
        """Whether it moves some tokens only."""
        return math.isfinite(self.low) or math.isfinite(self.high)

    @classmethod
    def of(cls, one: Intervention) -> Step:
        """The intervention as a step."""
        slope, offset, low, high = 0.0, 0.0, -math.inf, math.inf
        match one:
            case Floor(value=value):
                low = float(value)
            case Ceiling(value=value):
                high = float(value)
            case Addition(amount=amount):
                offset = float(amount)
            case Ablation(to=to):
                slope, offset = -1.0, float(to)
        direction = one.direction.float().cpu().contiguous()
        return cls(one.layer, direction, slope, offset, low, high, one.tokens)


@dataclass(frozen=True)
class Setting:
    """Interventions under a name, in the order in which they act."""

    name: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 200:
            raise UsageError(f"setting name {self.name!r}, expected 1 to 200 characters")
        widths = sorted({step.direction.shape[-1] for step in self.steps})
        if len(widths) > 1:
            raise UsageError(
                f"setting {self.name!r} has directions of {widths} numbers, expected one width; "
                "use those of one model"
            )

    @classmethod
    def of(cls, name: str, interventions: Iterable[Intervention]) -> Setting:
        """The setting that applies these interventions."""
        return cls(name, tuple(Step.of(one) for one in in_order(interventions)))

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers at which something is done, ascending."""
        return tuple(sorted({step.layer for step in self.steps}))

    @property
    def most_steps(self) -> int:
        """Most steps at one layer."""
        each = [step.layer for step in self.steps]
        return max((each.count(layer) for layer in set(each)), default=0)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that changes an activation; the name is not part of it."""
        digest = hashlib.sha256()
        for step in self.steps:
            digest.update(f"{step.layer}/{step.tokens}/{step.numbers}/".encode())
            digest.update(step.direction.numpy().tobytes())
        return digest.hexdigest() if self.steps else ""

    def salt(self, given: str | None) -> str | None:
        """Cache salt of a request under this setting that came with a salt of its own.

        Keys and values computed under an intervention serve no request with another; without
        interventions the salt stays as it came, unless it is made to look like one of ours:
        whoever knows a setting could otherwise put unsteered keys and values in its place.
        """
        if not self.steps and not (given or "").startswith(_OURS):
            return given
        return _OURS + hashlib.sha256(f"{self.fingerprint}/{given or ''}".encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """The setting as one safetensors file in memory; empty without steps."""
        if not self.steps:
            return b""
        packed: bytes = save(
            {
                "directions": torch.stack([step.direction for step in self.steps]),
                "numbers": torch.tensor([step.numbers for step in self.steps], dtype=torch.float64),
                "places": torch.tensor([[s.layer, _MASKS.index(s.tokens)] for s in self.steps]),
            }
        )
        return packed

    @classmethod
    def from_bytes(cls, name: str, packed: bytes) -> Setting:
        """The setting that `to_bytes` packed."""
        if not packed:
            return cls(name, ())
        held = load(packed)
        steps = [
            Step(layer, direction.clone(), slope, offset, low, high, _MASKS[mask])
            for (layer, mask), direction, (slope, offset, low, high) in zip(
                held["places"].tolist(), held["directions"], held["numbers"].tolist(), strict=True
            )
        ]
        return cls(name, tuple(steps))
