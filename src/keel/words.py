"""Numbers, lists and counts as text, one form for report, terminal and conclusions.

Knows nothing of what the numbers measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

MANY_CUT = 0.5
"""Share of answers cut off at the token limit above which a warning says that what was measured is
of how answers begin."""
NOT_A_NUMBER = "–"
"""Stands where there is no value."""
Form = Callable[[float], str]
"""How one number is written: `fixed`, `percent`, `points`, or `"{:.3g}".format`."""


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


def tenths(share: float) -> str:
    """A share (0 to 1) as a percentage with one decimal: `3.1 %`."""
    return percent(share, 1)


def points(share: float) -> str:
    """A difference of shares in percentage points: `−1.2`."""
    return fixed(100 * share, 1)


def signed(value: float, form: Form = fixed) -> str:
    """A difference with its sign, whichever it is: `+0.25`, `−1.20`."""
    text = form(value)
    return f"+{text}" if value > 0 else text


def form_of(unit: str) -> Form:
    """How numbers of a unit are written: shares in percentage points, others to three decimals.

    >>> form_of("share")(0.0123), form_of("nats per token")(0.0123)
    ('1.2', '0.012')
    """
    return points if unit == "share" else lambda value: fixed(value, 3)


def known(value: float | None, form: Form = fixed) -> str:
    """The value as `form` writes it, or `–` where there is none."""
    return NOT_A_NUMBER if value is None else form(value)


def p_value(p: float | None) -> str:
    """`0.012`, `< 0.001`, or `–` where nothing was tested."""
    if p is None:
        return NOT_A_NUMBER
    return "< 0.001" if p < 0.001 else fixed(p, 3)


def counted(count: int, noun: str) -> str:
    """`1 role`, `24 roles`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: Sequence[str]) -> str:
    """`bard, ghost and pirate`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def both_ends(ranked: Sequence[str], most: int) -> tuple[list[str], list[str]]:
    """Up to so many names from the beginning and from the end, the last first; none in both.

    >>> both_ends(["bard", "ghost", "clerk"], 5)
    (['bard'], ['clerk'])
    """
    count = min(most, len(ranked) // 2)
    return list(ranked[:count]), list(ranked[::-1][:count])


def first_line(error: Exception) -> str:
    """The first line of an error's message, cut at 200 characters; its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
