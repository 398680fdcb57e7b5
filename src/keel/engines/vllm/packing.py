"""Interventions under a name as rows of numbers: what is sent to workers and held by them.

Every intervention is one step along a unit direction v that depends on the projection p alone,
`keel.geometry.shift(p, *numbers)`, so that floors, ceilings, additions and ablations are rows of
one table and not branches in a graph.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load, save
from torch import Tensor

from keel.errors import UsageError
from keel.seeds import text_hash
from keel.steering import in_order
from keel.types import Intervention, TokenMask

_OURS = "keel:"
"""How the salts begin that Keel makes."""
_MASKS: tuple[TokenMask, ...] = ("all", "prompt", "generated", "not_first")
_NOT_FIRST = _MASKS.index("not_first")


@dataclass(frozen=True, eq=False)
class PackedInterventions:
    """Interventions under a name, one row each, in the order in which they act."""

    name: str
    layers_N: Int[Tensor, " intervention"]
    masks_N: Int[Tensor, " intervention"]
    """Index of the token mask: 0 all tokens, 1 the prompt's, 2 generated ones, 3 not the first."""
    is_bound_N: Bool[Tensor, " intervention"]
    numbers_NK: Float[Tensor, "intervention number"]
    """Slope, offset, low, high of the shift, in float64 as given."""
    directions_ND: Float[Tensor, "intervention hidden"]
    """Unit directions in float32."""

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 200:
            raise UsageError(f"setting name {self.name!r}, expected 1 to 200 characters")

    @classmethod
    def of(cls, name: str, interventions: Iterable[Intervention]) -> PackedInterventions:
        """The interventions as rows. Raises UsageError for directions of several widths."""
        ordered = in_order(interventions)
        directions = [each.direction.float().cpu() for each in ordered]
        widths = sorted({len(direction) for direction in directions})
        if len(widths) > 1:
            raise UsageError(
                f"setting {name!r} has directions of {widths} numbers, expected one width; "
                "use those of one model"
            )
        return cls(
            name,
            torch.tensor([each.layer for each in ordered], dtype=torch.int64),
            torch.tensor([_MASKS.index(each.tokens) for each in ordered], dtype=torch.int64),
            torch.tensor([each.is_bound for each in ordered], dtype=torch.bool),
            torch.tensor([each.numbers for each in ordered], dtype=torch.float64).view(-1, 4),
            torch.stack(directions) if directions else torch.zeros(0, 0),
        )

    @classmethod
    def none(cls, name: str) -> PackedInterventions:
        """The name with no intervention: the model as it is."""
        return cls.of(name, ())

    def __len__(self) -> int:
        return len(self.layers_N)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers at which something is done, ascending."""
        return tuple(sorted(set(self.layers_N.tolist())))

    @property
    def most_per_layer(self) -> int:
        """The highest number of interventions at one layer."""
        return max(Counter(self.layers_N.tolist()).values(), default=0)

    def acts_on(self, tokens: TokenMask) -> Bool[Tensor, " intervention"]:
        """Which interventions act on tokens of this kind, `prompt` or `generated`.

        A request's first token is of its prompt, and whether it is spared is for `spares_first`.
        """
        of_both_N = (self.masks_N == 0) | (self.masks_N == _NOT_FIRST)
        return of_both_N | (self.masks_N == _MASKS.index(tokens))

    @property
    def spares_first(self) -> bool:
        """Whether a request's first token is left alone.

        Raises UsageError where only some interventions spare it, which no map of tokens can say.
        """
        is_spared_N = (self.masks_N == _NOT_FIRST) | (self.masks_N == _MASKS.index("generated"))
        if not bool((self.masks_N == _NOT_FIRST).any()):
            return False
        if not bool(is_spared_N.all()):
            raise UsageError(
                f"setting {self.name!r} leaves the first token alone with some interventions and "
                "not with others, which vLLM cannot tell apart; give all the same tokens"
            )
        return True

    @cached_property  # every request's cache is salted with it
    def fingerprint(self) -> str:
        """SHA-256 over everything that changes an activation; the name is not part of it."""
        digest = hashlib.sha256()
        for layer, mask, numbers, direction in zip(
            self.layers_N.tolist(),
            self.masks_N.tolist(),
            self.numbers_NK.tolist(),
            self.directions_ND,
            strict=True,
        ):
            digest.update(f"{layer}/{_MASKS[mask]}/{tuple(numbers)}/".encode())
            digest.update(direction.numpy().tobytes())
        return digest.hexdigest() if len(self) else ""

    def salt(self, given: str | None) -> str | None:
        """The prefix-cache salt of a request under this setting, from the salt it came with.

        Keys and values computed under an intervention serve no request with another; without
        interventions the salt stays as it came, unless it is made to look like one of ours:
        a client who knows a setting could otherwise put unsteered keys and values in its place.
        """
        if not len(self) and not (given or "").startswith(_OURS):
            return given
        return _OURS + text_hash(f"{self.fingerprint}/{given or ''}")

    def to_bytes(self) -> bytes:
        """The rows as one safetensors file in memory; empty without interventions."""
        if not len(self):
            return b""
        packed: bytes = save({n: getattr(self, n) for n in self.__match_args__ if n != "name"})
        return packed

    @classmethod
    def from_bytes(cls, name: str, packed: bytes) -> PackedInterventions:
        """The rows that `to_bytes` packed."""
        return cls(name, **load(packed)) if packed else cls.none(name)
