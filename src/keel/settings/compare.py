"""How runs are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from keel.errors import UsageError
from keel.settings.flags import Flag


@dataclass(frozen=True)
class CompareSettings:
    """How two runs are compared."""

    bootstrap: Annotated[int, Flag("--bootstrap", least=1)] = 500
    """Resamples of roles or traits behind each interval."""
    components: Annotated[int, Flag("--components", least=1)] = 5
    """Principal components to compare, at the most."""
    seed: Annotated[int, Flag("--seed")] = 0
    """Decides every resample."""

    def __post_init__(self) -> None:
        for name in ("bootstrap", "components"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected 1 or more")
