"""Counters of watched conversations, and what `/metrics` makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

from keel.alarm import Alarm
from keel.engines.vllm import (
    FAILED,
    LATE,
    NAMED_SETTINGS,
    NOT_SEEN,
    OTHERS,
    HistogramValue,
    Series,
)

GAPS_BOUNDS = (-0.5, 0.0, 0.5, 0.75, 1.0, 1.5, math.inf)
EVIDENCE_BOUNDS = (10.0, 100.0, math.inf)
"""What a watched turn and an alarm need at a rate of 1 %."""
NO_CONTENT, NOT_KEPT, NOT_JUDGED = "no content", "not kept", "not judged"
"""It had none, or called a tool; the file took it no more; the judge failed."""
UNREAD = (NOT_SEEN, FAILED, LATE, NO_CONTENT, NOT_KEPT, NOT_JUDGED)
"""Why an answer was not read."""
_BY = "|"
"""Stands between the parts of a counter's name: what is counted, then its labels."""
_COUNTED = {
    "turns": ("keel_drift_turns", "Turns read.", ("setting", "state")),
    "alarms": ("keel_drift_alarms", "Conversations that raised an alarm.", ()),
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


def of_few_settings(
    counts: Mapping[str, float], before: Mapping[str, float]
) -> Mapping[str, float]:
    """What is to be counted, settings beyond the first few that stand in `before` put together."""
    own = {name.split(_BY)[1] for name in before if name.startswith(f"turns{_BY}")}
    room = NAMED_SETTINGS - len(own - {OTHERS})
    few = dict[str, float]()
    for name, value in counts.items():
        first, *labels = name.split(_BY)
        if first == "turns" and labels[0] not in own and room <= 0:
            labels[0] = OTHERS
        label = counter_name(first, *labels)
        few[label] = few.get(label, 0.0) + value
    return few


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
    begun = {"turns": [], "unread": [(reason,) for reason in UNREAD]}
    zeros = begun.get(counted, [()])
    values = {(model, *labels): value for (first, *labels), value in split if first == counted}
    return {**{(model, *labels): 0.0 for labels in zeros}, **values}


def _histogram(counts: Mapping[str, float], of: str, bounds: Sequence[float]) -> HistogramValue:
    each = [counts.get(counter_name(of, f"{bound:g}"), 0.0) for bound in bounds]
    labels = ["+Inf" if bound == math.inf else f"{bound:g}" for bound in bounds]
    buckets = tuple(zip(labels, accumulate(each), strict=True))
    return HistogramValue(buckets, counts.get(f"{of}_sum", 0.0))
