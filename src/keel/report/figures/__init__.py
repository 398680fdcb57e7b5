"""The figures of a report, one Plotly figure per function. Knows nothing of pages."""

from keel.report.figures.comparison import draw_components, draw_layers, draw_shifts
from keel.report.figures.drift import draw_replays, draw_tokens, draw_trajectories
from keel.report.figures.floors import ALWAYS, SELDOM, draw_firing, draw_histograms
from keel.report.figures.price import draw_prices
from keel.report.figures.quality import draw_quality
from keel.report.figures.ranks import draw_ranks
from keel.report.figures.space import draw_space, draw_variance
from keel.report.figures.traits import draw_leanings

__all__ = [
    "ALWAYS",
    "SELDOM",
    "draw_components",
    "draw_firing",
    "draw_histograms",
    "draw_layers",
    "draw_leanings",
    "draw_prices",
    "draw_quality",
    "draw_ranks",
    "draw_replays",
    "draw_shifts",
    "draw_space",
    "draw_tokens",
    "draw_trajectories",
    "draw_variance",
]
