"""Traits ranked by their cosine with the Assistant Axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from keel.report.figures import theme
from keel.report.figures.text import hover_box, plain
from keel.types import Interval

_ROW_PX = 19
_BELOW_PX = 56


def draw_leanings(
    cosines: Sequence[tuple[str, Interval]], *, samples: Mapping[str, str]
) -> go.Figure:
    """One row per trait with its interval, the most Assistant-ward on top, as given."""
    places = list(range(len(cosines)))[::-1]
    figure = theme.blank_figure(
        _ROW_PX * (len(cosines) + 1) + _BELOW_PX + 24,
        margin={"l": 140, "r": 24, "t": 24, "b": _BELOW_PX},
    )
    found = [one for _, one in cosines]
    figure.add_scatter(
        x=theme.rounded(one.value for one in found),
        y=places,
        mode="markers",
        marker={
            "size": 9,
            "color": [theme.DEFAULT_COLOUR if o.value > 0 else theme.ROLES_COLOUR for o in found],
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": theme.rounded(one.high - one.value for one in found),
            "arrayminus": theme.rounded(one.value - one.low for one in found),
            "thickness": 1,
            "color": "#B8BDC5",
        },
        hoverinfo="text",
        hovertext=[hover_box(name, o.text(), quote=samples.get(name, "")) for name, o in cosines],
        showlegend=False,
    )
    _dress_axes(figure, cosines)
    return figure


def _dress_axes(figure: go.Figure, cosines: Sequence[tuple[str, Interval]]) -> None:
    ends = [value for _, one in cosines for value in (one.low, one.high)]
    figure.add_vline(x=0, line={"color": theme.FAINT, "width": 1})
    figure.update_xaxes(
        title_text="← away from the Assistant    cosine with the axis    towards it →",
        range=theme.padded_range([0.0, *ends], share=0.04),
    )
    figure.update_yaxes(
        tickvals=list(range(len(cosines)))[::-1],
        ticktext=[plain(name) for name, _ in cosines],
        range=[-0.8, len(cosines) - 0.2],
        showgrid=False,
        tickfont={"size": theme.LABEL_PX},
    )
