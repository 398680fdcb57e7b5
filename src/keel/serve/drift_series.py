"""Counters of watched conversations, and what `/metrics` makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

from keel.alarm import Alarm
from keel.engines.vllm import FAILED, LATE, NOT_SEEN, HistogramValue, Series

GAPS_BOUNDS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, math.inf)
EVIDENCE_BOUNDS = (1.0, 3.0, 10.0, 30.0, 100.0, 1000.0, math.inf)
NO_TOKENS, NOT_KEPT, NOT_JUDGED = "no tokens", "not kept", "not judged"
"""It had no content; the file took it no more; the judge failed."""
UNREAD = (NOT_SEEN, FAILED, LATE, NO_TOKENS, NOT_KEPT, NOT_JUDGED)
"""Why an answer was not read."""
_BY = "|"
"""Stands between the parts of a counter's name: what is counted, then its labels."""
_COUNTED = {
    "turns": ("keel_drift_turns", "Turns read.", ("setting", "state")),
    "alarms": ("keel_drift_alarms", "Conversations that raised an alarm.", ("setting",)),
    "unread": ("keel_drift_unread_turns", "Answers that could not be read.", ("reason",)),
    "conversations": ("keel_drift_conversations", "Conversations that have begun.", ()),
    "misses": ("keel_drift_state_misses", "Turns whose past was not known any more.", ()),
}
"""Name, help and labels of each counter's series."""
_HISTOGRAMS = {
    "gaps": ("keel_drift_gaps", "Level of turns: 1 is the default's.", GAPS_BOUNDS),
    "evidence": ("keel_drift_evidence", "Evidence for drift after turns.", EVIDENCE_BOUNDS),
}


def counter_name(*parts: str) -> str:
    """The name of a counter: what is counted, and the values of its labels."""
    return _BY.join(parts)


def bound_of(value: float, bounds: Sequence[float]) -> str:
    """The least bound that a value is not above."""
    return f"{next((bound for bound in bounds if value <= bound), math.inf):g}"


def drift_series(
    model: str, counts: Mapping[str, float], kept: int, alarm: Alarm, rate: float
) -> list[Series]:
    """All series of a server whose alarm has this rate and which keeps so many conversations."""
    counters = [
        Series(name, help, "counter", ("model_name", *labels), _counted(model, counts, counted))
        for counted, (name, help, labels) in _COUNTED.items()
    ]
    histograms = [
        Series(name, help, "histogram", ("model_name",), {(model,): _histogram(counts, of, bounds)})
        for of, (name, help, bounds) in _HISTOGRAMS.items()
    ]
    gauges = {
        "keel_drift_kept_conversations": (
            "States that are kept: of each answer that a conversation can go on from.",
            float(kept),
        ),
        "keel_drift_design_rate": ("Share of healthy conversations that ever alarm.", rate),
    }
    info = {"layer": str(alarm.layer), "statistic": alarm.statistic, "rate": f"{rate:g}"}
    return [
        *counters,
        *histograms,
        *(
            Series(name, help, "gauge", ("model_name",), {(model,): value})
            for name, (help, value) in gauges.items()
        ),
        Series(
            "keel_drift_calibration_info",
            "The alarm that watches.",
            "gauge",
            ("model_name", *info),
            {(model, *info.values()): 1.0},
        ),
    ]


def _counted(
    model: str, counts: Mapping[str, float], counted: str
) -> Mapping[tuple[str, ...], float]:
    """The values of a counter by its labels.

    0 for what has not counted yet, where its labels are known: Prometheus sees no increase in a
    counter that begins with 1.
    """
    split = [(name.split(_BY), value) for name, value in counts.items()]
    begun = {
        "alarms": [(labels[0],) for (first, *labels), _ in split if first == "turns"],
        "unread": [(reason,) for reason in UNREAD],
    }
    zeros = begun.get(counted, [] if _COUNTED[counted][2] else [()])
    values = {(model, *labels): value for (first, *labels), value in split if first == counted}
    return {**{(model, *labels): 0.0 for labels in zeros}, **values}


def _histogram(counts: Mapping[str, float], of: str, bounds: Sequence[float]) -> HistogramValue:
    each = [counts.get(counter_name(of, f"{bound:g}"), 0.0) for bound in bounds]
    labels = ["+Inf" if bound == math.inf else f"{bound:g}" for bound in bounds]
    buckets = tuple(zip(labels, accumulate(each), strict=True))
    return HistogramValue(buckets, counts.get(f"{of}_sum", 0.0))
