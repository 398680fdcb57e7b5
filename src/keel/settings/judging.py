"""Who judges, and what a judge behind an address may cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from keel.errors import UsageError

_MILLION = 1_000_000


@dataclass(frozen=True)
class EndpointLimits:
    """What a judge behind an address must keep to; the defaults suit most services."""

    workers: int = 8
    """Requests in flight at the same time, at the most."""
    requests_per_minute: float | None = None
    """Retries included; None leaves the pace to the endpoint's own limits."""
    timeout_s: float = 120.0
    """How long one request may take altogether."""
    attempts: int = 7
    """How often one request is sent before its case counts as failed."""
    first_wait_s: float = 1.0
    """Before the second attempt; doubled before each one after it, and varied at random."""
    longest_wait_s: float = 60.0
    """Where doubling ends."""
    longest_retry_after_s: float = 600.0
    """An endpoint that asks for a longer rest than this ends the judging, with a message."""
    max_requests: int | None = None
    """Budget of requests, retries included; None is without end."""
    max_cost_usd: float | None = None
    """Budget in US dollars; needs both prices."""
    usd_per_million_in: float | None = None
    """Price of a million tokens sent."""
    usd_per_million_out: float | None = None
    """Price of a million tokens received."""
    max_reply_tokens: int = 1024
    """For one reply, thinking included: a model that reasons needs far more than a label."""

    def __post_init__(self) -> None:
        for name in ("workers", "attempts", "max_reply_tokens"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        for name in ("timeout_s", "requests_per_minute"):
            self._check(name, _is_positive(getattr(self, name)), "a number above 0")
        for name in ("first_wait_s", "longest_wait_s", "longest_retry_after_s"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("max_requests", "max_cost_usd", "usd_per_million_in", "usd_per_million_out"):
            self._check(name, _is_no_debt(getattr(self, name)), "0 or more")
        if self.max_cost_usd is not None and not self.has_prices:
            raise UsageError(
                f"max_cost_usd is {self.max_cost_usd:g}, but what tokens cost is not known; "
                "give usd_per_million_in and usd_per_million_out"
            )

    @property
    def has_prices(self) -> bool:
        """Whether it is known what tokens cost."""
        return self.usd_per_million_in is not None and self.usd_per_million_out is not None

    def cost_usd(self, sent: int, received: int) -> float | None:
        """What so many tokens cost; None where the prices are not known."""
        if self.usd_per_million_in is None or self.usd_per_million_out is None:
            return None
        cost = sent * self.usd_per_million_in + received * self.usd_per_million_out
        return cost / _MILLION

    def _check(self, name: str, is_good: bool, expected: str) -> None:
        if not is_good:
            raise UsageError(f"{name} is {getattr(self, name)}, expected {expected}")


def _is_positive(number: float | None) -> bool:
    return number is None or 0 < number < math.inf


def _is_no_debt(number: float | None) -> bool:
    return number is None or 0 <= number < math.inf
