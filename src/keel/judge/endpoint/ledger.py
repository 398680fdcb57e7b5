"""What was asked of an endpoint so far, and whether the budget has room for more.

Keeps to the budget even with many requests in flight: each is entered at what it can cost at the
most, and corrected when its reply says what it did cost.
"""

from __future__ import annotations

from dataclasses import dataclass

from keel.judge.endpoint.limits import Tokens
from keel.settings import EndpointLimits


@dataclass(frozen=True)
class Spending:
    """What judging has taken so far."""

    requests: int
    """Sent, retries included."""
    retries: int
    """Requests sent again after a refusal, an error or silence."""
    asked_again: int
    """Cases asked a second time because the first reply held no label."""
    tokens: Tokens
    """By the replies' own account, where they give one."""
    estimated: int
    """Requests whose tokens had to be estimated: the reply was lost, or did not count them."""
    cost_usd: float | None
    """None where prices are not known."""


class Ledger:
    """Counts requests and tokens against the limits."""

    def __init__(self, limits: EndpointLimits) -> None:
        self._limits = limits
        self._tokens = Tokens()
        self._reserved = Tokens()
        self._in_flight = 0
        self._requests = 0
        self._estimated = 0
        self.retries = 0
        self.asked_again = 0

    def has_room(self, most: Tokens) -> bool:
        """Whether a request may be sent now, though all in flight should cost their most."""
        return self._has_request() and self._is_within(self._tokens + self._reserved + most)

    def can_have_room(self, most: Tokens) -> bool:
        """Whether it may be sent once what is in flight has been settled, or at once."""
        return self._has_request() and (self._in_flight > 0 or self.has_room(most))

    def enter(self, most: Tokens) -> None:
        """A request leaves."""
        self._requests += 1
        self._in_flight += 1
        self._reserved = self._reserved + most

    def settle(self, most: Tokens, used: Tokens, *, is_estimated: bool) -> None:
        """It is over: what was set aside for it is replaced by what it took."""
        self._in_flight -= 1
        self._reserved = self._reserved + Tokens(-most.sent, -most.received)
        self._tokens = self._tokens + used
        self._estimated += is_estimated

    @property
    def spending(self) -> Spending:
        """All that has been settled so far."""
        return Spending(
            self._requests,
            self.retries,
            self.asked_again,
            self._tokens,
            self._estimated,
            self._limits.cost_usd(self._tokens.sent, self._tokens.received),
        )

    @property
    def budget(self) -> str:
        """The budget in words."""
        limits, parts = self._limits, []
        if limits.max_requests is not None:
            parts.append(f"{limits.max_requests} requests")
        if limits.max_cost_usd is not None:
            parts.append(f"{limits.max_cost_usd:g} USD")
        return " and ".join(parts) or "no limit"

    def _has_request(self) -> bool:
        return self._limits.max_requests is None or self._requests < self._limits.max_requests

    def _is_within(self, tokens: Tokens) -> bool:
        cost = self._limits.cost_usd(tokens.sent, tokens.received)
        budget = self._limits.max_cost_usd
        return cost is None or budget is None or cost <= budget
