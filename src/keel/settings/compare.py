"""How runs are compared."""

from __future__ import annotations

from dataclasses import dataclass

from keel.errors import UsageError


@dataclass(frozen=True)
class CompareSettings:
    """How two runs are compared."""

    bootstrap: int = 500
    """Resamples of roles or traits behind each interval."""
    components: int = 5
    """Principal components to compare, at the most."""
    seed: int = 0
    """Decides every resample."""

    def __post_init__(self) -> None:
        for name in ("bootstrap", "components"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected 1 or more")
