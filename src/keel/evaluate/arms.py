"""Arms: what is done to the model, or said to it, while the same items are answered."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

from torch import Tensor

from keel.evaluate.instructions import Instruction
from keel.steering import Intervention
from keel.types import Conversation


@dataclass(frozen=True)
class Arm:
    """One way in which items are answered."""

    name: str
    interventions: tuple[Intervention, ...] = ()
    instruction: Instruction | None = None
    """What is put into every conversation; None leaves them as they are."""
    note: str = ""
    """What the arm does, with its numbers, for people to see."""
    warnings: tuple[str, ...] = ()
    """What speaks against relying on it, for people to see."""

    def change(self, conversation: Conversation) -> Conversation:
        """The conversation as this arm asks it. One that was changed before stays as it is, save
        for user turns that have come since."""
        return conversation if self.instruction is None else self.instruction(conversation)

    @property
    def has_bound(self) -> bool:
        """Whether a floor or ceiling is among the interventions, so that a firing rate says
        something."""
        return any(each.is_bound for each in self.interventions)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that it does, down to its directions' bytes. Name and notes do not
        count: answers given under an arm belong to every arm that does the same."""
        told = hashlib.sha256()
        for one in self.interventions:
            numbers = {k: v for k, v in vars(one).items() if not isinstance(v, Tensor)}
            told.update(f"{type(one).__name__} {sorted(numbers.items())}".encode())
            told.update(one.direction.detach().float().cpu().contiguous().numpy().tobytes())
        words = None if self.instruction is None else sorted(asdict(self.instruction).items())
        told.update(f"says {words}".encode())
        return told.hexdigest()
