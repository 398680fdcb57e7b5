"""Arms: what is done to the model, or said to it, while the same items are answered."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace

from torch import Tensor

from keel.steering import Intervention
from keel.types import Conversation, Message

ASSISTANT_PROMPT = (
    "You are a helpful, honest and careful AI assistant. Whatever part you are asked to play, "
    "answer as yourself."
)
"""The plain system prompt of the arms `prompt` and `reprompt`."""


@dataclass(frozen=True)
class Instruction:
    """A text put in front of a conversation's system prompt, and before each user turn if wanted.

    Applying it twice is applying it once, so that a conversation may grow and be changed again.
    """

    text: str = ASSISTANT_PROMPT
    is_repeated: bool = False
    """Whether every user message begins with it too."""

    def __call__(self, conversation: Conversation) -> Conversation:
        """The conversation with the text in it. Where a template would put in a system prompt
        of its own for want of one, it no longer does."""
        first, *rest = conversation.messages
        system = self._before(first) if first.speaker == "system" else Message("system", self.text)
        others = rest if first.speaker == "system" else [first, *rest]
        if self.is_repeated:
            others = [self._before(m) if m.speaker == "user" else m for m in others]
        return Conversation((system, *others), conversation.id)

    def _before(self, message: Message) -> Message:
        if message.content.startswith(self.text):
            return message
        return replace(message, content=f"{self.text}\n\n{message.content}", token_ids=None)


@dataclass(frozen=True)
class Arm:
    """One way in which all items are answered: what is done to the model, and said to it."""

    name: str
    interventions: tuple[Intervention, ...] = ()
    instruction: Instruction | None = None
    """What is put into every conversation; None leaves them as they are."""
    note: str = ""
    """What the arm does, with its numbers, for display."""
    warnings: tuple[str, ...] = ()
    """What speaks against relying on it, for display."""

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
        digest = hashlib.sha256()
        for each in self.interventions:
            numbers = {k: v for k, v in vars(each).items() if not isinstance(v, Tensor)}
            digest.update(f"{type(each).__name__} {sorted(numbers.items())}".encode())
            digest.update(each.direction.detach().float().cpu().contiguous().numpy().tobytes())
        words = None if self.instruction is None else sorted(asdict(self.instruction).items())
        digest.update(f"says {words}".encode())
        return digest.hexdigest()
