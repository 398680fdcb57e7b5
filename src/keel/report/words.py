"""Numbers and lists as people read them. Knows nothing of what they measure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from keel.types import Interval

NOT_A_NUMBER = "–"


def number(value: float, digits: int = 3) -> str:
    """The value to some significant digits: `0.0123`, `−1.2`, `50`, `12,345`."""
    if not math.isfinite(value):
        return NOT_A_NUMBER
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if decimals > 7:
        return f"{value:.1e}".replace("-", "−")
    text = fixed(value, decimals)
    return text.rstrip("0").rstrip(".") if "." in text else text


def fixed(value: float, decimals: int = 2) -> str:
    """The value to some decimals, with a true minus sign and no negative zero."""
    if not math.isfinite(value):
        return NOT_A_NUMBER
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def percent(share: float, decimals: int = 0) -> str:
    """A share (0 to 1) as a percentage: `24 %`, the sign kept on the number's line."""
    text = fixed(100 * share, decimals)
    return text if text == NOT_A_NUMBER else f"{text}\N{NO-BREAK SPACE}%"


def within(interval: Interval) -> str:
    """The bounds of an interval: `0.88 to 0.94`."""
    return f"{fixed(interval.low)} to {fixed(interval.high)}"


def counted(count: int, noun: str) -> str:
    """`1 role`, `24 roles`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: Sequence[str]) -> str:
    """`bard, ghost and pirate`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
