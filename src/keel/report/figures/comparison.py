"""Two runs side by side: how alike their components are, layer by layer, and what shifted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from keel.report.figures import theme
from keel.report.figures.text import plain
from keel.types import Interval, Shift

_ROW_PX = 18
_BAND_OPACITY = 0.15


def draw_components(parts: Mapping[str, Sequence[Interval]]) -> go.Figure:
    """Correlation of loadings on each component, with its interval; a group of bars per kind."""
    figure = theme.blank_figure(320, barmode="group")
    for place, (name, found) in enumerate(parts.items()):
        colour, _ = theme.kind_style(place)
        figure.add_bar(
            x=[f"PC{number}" for number in range(1, len(found) + 1)],
            y=theme.rounded(one.value for one in found),
            error_y={
                "type": "data",
                "symmetric": False,
                "array": theme.rounded(one.high - one.value for one in found),
                "arrayminus": theme.rounded(one.value - one.low for one in found),
                "thickness": 1.2,
            },
            name=plain(name),
            marker_color=colour,
        )
    low = min([0.0, *(one.low for found in parts.values() for one in found)])
    figure.update_yaxes(title_text="correlation of loadings", range=[low * 1.05, 1.03])
    return figure


def draw_layers(curves: Mapping[str, Sequence[Interval]], layer: int) -> go.Figure:
    """Cosines at every layer with their intervals as bands, the layer read marked."""
    figure = theme.blank_figure(360, hovermode="x unified")
    for place, (name, found) in enumerate(curves.items()):
        _add_band(figure, found, place)
        figure.add_scatter(
            x=list(range(len(found))),
            y=theme.rounded(one.value for one in found),
            name=plain(name),
            mode="lines",
            line=theme.line_style(place),
        )
    count = max((len(found) for found in curves.values()), default=1)
    figure.add_vline(x=layer, line={"color": theme.FAINT, "width": 1, "dash": "dash"})
    figure.update_xaxes(title_text="layer", tickvals=theme.whole_ticks(count))
    figure.update_yaxes(title_text="cosine")
    return figure


def draw_shifts(shifts: Sequence[Shift]) -> go.Figure:
    """A bar per role or trait, the one the default went towards most on top."""
    names = [plain(shift.name) for shift in shifts]
    places = list(range(len(shifts)))[::-1]
    figure = theme.blank_figure(
        _ROW_PX * len(shifts) + 90, margin={"l": 140, "r": 24, "t": 24, "b": 56}
    )
    figure.add_bar(
        x=theme.rounded(shift.share for shift in shifts),
        y=places,
        orientation="h",
        marker_color=[
            theme.DEFAULT_COLOUR if shift.share > 0 else theme.ROLES_COLOUR for shift in shifts
        ],
        hovertext=[f"{shift.share:+.3f}, cosine {shift.cosine:+.2f}" for shift in shifts],
        hoverinfo="text",
        showlegend=False,
    )
    figure.add_vline(x=0, line={"color": theme.FAINT, "width": 1})
    figure.update_xaxes(title_text="← away    shift of the default    towards →")
    figure.update_yaxes(tickvals=places, ticktext=names, showgrid=False)
    return figure


def _add_band(figure: go.Figure, found: Sequence[Interval], place: int) -> None:
    layers = list(range(len(found)))
    figure.add_scatter(
        x=layers + layers[::-1],
        y=theme.rounded([one.high for one in found] + [one.low for one in found][::-1]),
        fill="toself",
        fillcolor=theme.line_style(place)["color"],
        opacity=_BAND_OPACITY,
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )
