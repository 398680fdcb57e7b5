"""What is evaluated, under which arms."""

from __future__ import annotations

from dataclasses import dataclass

from keel.errors import UsageError


@dataclass(frozen=True)
class CapabilitySettings:
    """Settings of the paper by default: no examples in the prompt, seed 42, greedy as tasks say."""

    limit: int | None = None
    """How many items of each task, the first ones (of MMLU-Pro: of each subject); None: all."""
    seed: int = 42
    is_chat: bool | None = None
    """Whether items are asked as a user's message of the chat template; None: where there is one.
    """
    batch_size: int | None = None
    """Items answered together, in lm-eval's own order; None: as many as fit in memory."""
    max_new_tokens: int | None = None
    """Longest answer, where it is less than the task allows; None: as the task says."""
    allows_code: bool = False
    """Whether tasks may run Python code that the model wrote."""

    def __post_init__(self) -> None:
        for name in ("limit", "batch_size", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}, expected 1 or more")
