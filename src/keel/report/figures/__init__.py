"""The figures of a report, one Plotly figure per function. Knows nothing of pages."""

from keel.report.figures.drift import draw_replays, draw_tokens, draw_trajectories
from keel.report.figures.evaluation import (
    draw_harm_by_projection,
    draw_label_curve,
    draw_label_shares,
    draw_rates,
    labels_of,
)
from keel.report.figures.floors import (
    ALWAYS,
    SELDOM,
    draw_firing,
    draw_frontier,
    draw_histograms,
    draw_prices,
    draw_screening,
)
from keel.report.figures.layers import draw_components, draw_layers, draw_quality, draw_shifts
from keel.report.figures.space import draw_leanings, draw_ranks, draw_space, draw_variance

__all__ = [
    "ALWAYS",
    "SELDOM",
    "draw_components",
    "draw_firing",
    "draw_frontier",
    "draw_harm_by_projection",
    "draw_histograms",
    "draw_label_curve",
    "draw_label_shares",
    "draw_layers",
    "draw_leanings",
    "draw_prices",
    "draw_quality",
    "draw_ranks",
    "draw_rates",
    "draw_replays",
    "draw_screening",
    "draw_shifts",
    "draw_space",
    "draw_tokens",
    "draw_trajectories",
    "draw_variance",
    "labels_of",
]
