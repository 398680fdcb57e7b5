"""Keeps to the limits of an endpoint: its pace, and a budget of requests and money."""

from __future__ import annotations

import math
import time
from concurrent.futures import CancelledError
from dataclasses import dataclass
from threading import Condition, Event, Lock

from keel.errors import BudgetError
from keel.settings import EndpointLimits

_MILLION = 1_000_000
_SECONDS_PER_MINUTE = 60
_BYTES_PER_TOKEN = 4
"""A rule of thumb for English text; it holds roughly for other scripts when bytes are counted."""


@dataclass(frozen=True)
class Tokens:
    """Tokens sent and received."""

    sent: int = 0
    received: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.sent + other.sent, self.received + other.received)

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(self.sent - other.sent, self.received - other.received)

    def cost_usd(self, limits: EndpointLimits) -> float | None:
        """The cost at the limits' prices; None where these are not known."""
        if limits.usd_per_million_in is None or limits.usd_per_million_out is None:
            return None
        cost = self.sent * limits.usd_per_million_in + self.received * limits.usd_per_million_out
        return cost / _MILLION


def estimate_tokens(text: str) -> int:
    """One token for every four bytes of UTF-8, rounded up."""
    return -(-len(text.encode(errors="replace")) // _BYTES_PER_TOKEN)


class Pace:
    """Spaces requests so that no stretch of time holds more than the asked rate.

    One second's worth may leave at once, and no minute's: services count over windows of their
    own, and a burst at the seam of two would be too many for both.
    """

    def __init__(self, requests_per_minute: float | None) -> None:
        rate_per_s = (requests_per_minute or math.inf) / _SECONDS_PER_MINUTE
        self._interval_s = 1 / rate_per_s
        self._credit_s = (max(1.0, rate_per_s) - 1) * self._interval_s if requests_per_minute else 0
        self._due = -math.inf
        self._lock = Lock()

    def next_wait_s(self) -> float:
        """Reserve the next free slot; the seconds until it."""
        now = time.monotonic()
        with self._lock:
            due = max(self._due, now - self._credit_s)
            self._due = due + self._interval_s
        return max(0.0, due - now)


class Spending:
    """Requests, tokens and dollars spent on one endpoint, kept within its budget; for threads.

    Each request in flight counts at the most that it can cost, until its reply says what it did.
    """

    def __init__(self, limits: EndpointLimits) -> None:
        self.requests = 0
        """Sent, retries included."""
        self.retries = 0
        """Requests sent again after a refusal, an error or silence."""
        self.tokens = Tokens()
        """By the replies' own account, where they give one."""
        self.estimated = 0
        """Requests whose tokens had to be estimated: the reply was lost, or did not count them."""
        self._limits = limits
        self._changed = Condition()
        self._reserved, self._in_flight = Tokens(), 0

    @property
    def cost_usd(self) -> float | None:
        """Cost of the finished requests; None where prices are not known."""
        return self.tokens.cost_usd(self._limits)

    def count_retry(self) -> None:
        """Count a request that is about to be sent again."""
        with self._changed:
            self.retries += 1

    def reserve(self, most: Tokens, stop: Event) -> None:
        """Count a request that is about to be sent and may cost `most`.

        Waits while requests in flight may turn out cheaper and leave room. Raises BudgetError where
        nothing can, CancelledError once `stop` is set.
        """
        requests, dollars = self._limits.max_requests, self._limits.max_cost_usd
        with self._changed:
            while True:
                is_out_of_requests = requests is not None and self.requests >= requests
                cost = (self.tokens + self._reserved + most).cost_usd(self._limits)
                has_money = cost is None or dollars is None or cost <= dollars
                if has_money and not is_out_of_requests:
                    break
                if is_out_of_requests or not self._in_flight:
                    parts = [] if requests is None else [f"{requests} requests"]
                    parts += [] if dollars is None else [f"{dollars:g} USD"]
                    raise BudgetError(f"the budget of {' and '.join(parts)} is used up")
                if stop.is_set():
                    raise CancelledError("the connection is closed")
                self._changed.wait(0.1)  # not only for a change: `stop` tells nobody
            self.requests += 1
            self._in_flight += 1
            self._reserved += most

    def settle(self, most: Tokens, used: Tokens, *, is_estimated: bool) -> None:
        """Replace what was reserved for a finished request by what it used."""
        with self._changed:
            self._in_flight -= 1
            self._reserved -= most
            self.tokens += used
            self.estimated += is_estimated
            self._changed.notify_all()
