"""Persona space, ranks along the axis, the axis' quality over the layers, and runs compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from keel.arrays import as_numpy
from keel.report.figures import theme
from keel.report.figures.theme import Canvas, hover_box, plain, position_labels
from keel.report.inputs import RoleStanding
from keel.types import DEFAULT_ROLE, AssistantAxis, Interval, LayerQuality, PersonaSpace, Shift
from keel.words import counted, fixed, form_of, number, percent, signed

_CANVAS_PX = (770.0, 460.0)
"""Plotting area on the narrowest page: there, names must not touch."""
_SLIDER_PX = 130
"""Room for the axis' title and the slider."""
_STAR_PX = 10.0
_ROW_PX, _BELOW_PX = 19, 56
"""Height of a row of a ranking, and of the axis below it."""
_SHIFT_ROW_PX = 18
_DEFAULT_NAME = "default: the Assistant"
_SLIDER_STYLE = {
    "currentvalue": {"prefix": "layer ", "font": {"size": theme.FONT_PX}},
    "pad": {"t": 52, "b": 0},
    "ticklen": 3,
    "minorticklen": 0,
    "bgcolor": "#EEF0F2",
    "activebgcolor": theme.DEFAULT_COLOUR,
    "bordercolor": theme.EDGE,
    "font": {"size": 10, "color": theme.FAINT},
}
_QUALITY_TITLES = (
    "AUC: default above role, held out",
    "d′: distance in standard deviations, held out",
    "|cos(axis, PC1)|",
    "Cosine of axes from two halves",
    "Length of the axis (raw units, log scale)",
    "Roles below the default (%)",
)
_GREEN, _PURPLE = "#009E73", "#A8588A"
_BAND_OPACITY = 0.16


def draw_space(
    space: PersonaSpace,
    layer: int,
    *,
    kinds: Mapping[str, str],
    samples: Mapping[str, str],
    ends: tuple[str, str] = ("role-playing", "Assistant"),
) -> go.Figure:
    """Roles by kind and the default on PC1 and PC2, with a slider over the layers.

    `ends` says what lies to the left and to the right.
    """
    groups = _group(space.roles, kinds)
    above = theme.legend_px(len(groups) + 1)
    figure = theme.new_figure(
        int(_CANVAS_PX[1]) + above + _SLIDER_PX, margin={"t": above, "b": _SLIDER_PX}
    )
    parts = [rows for _, rows in groups] + [[len(space.roles)]]
    states = [_layer_state(space, at, parts, ends) for at in range(space.coordinates_LRK.shape[0])]
    for index, (kind, rows) in enumerate(groups):
        roles = [space.roles[row] for row in rows]
        colour, symbol = theme.kind_style(index)
        figure.add_scatter(
            mode="markers+text",
            name=plain(kind),
            marker={"color": colour, "symbol": symbol, "size": 9, "opacity": 0.85},
            textfont={"size": theme.LABEL_PX, "color": theme.INK},
            hovertext=[hover_box(role, kind, quote=samples.get(role, "")) for role in roles],
            cliponaxis=False,
        )
    sample = samples.get(DEFAULT_ROLE, "")
    figure.add_scatter(
        mode="markers+text",
        name=_DEFAULT_NAME,
        marker={"color": theme.DEFAULT_COLOUR, "symbol": "star", "size": 2 * _STAR_PX},
        textfont={"size": theme.LABEL_PX + 1, "color": theme.DEFAULT_COLOUR, "weight": 700},
        hovertext=[hover_box(DEFAULT_ROLE, "the model when no role is set", quote=sample)],
        cliponaxis=False,
    )
    traces, axes = states[layer]
    for at, trace in enumerate(figure.data):
        trace.update({name: values[at] for name, values in traces.items()})
    figure.update_layout(axes)
    if len(states) > 1:
        steps = [
            {"label": str(at), "method": "update", "args": list(state)}
            for at, state in enumerate(states)
        ]
        figure.update_layout(sliders=[{"active": layer, "steps": steps, **_SLIDER_STYLE}])
    return figure


def _group(roles: Sequence[str], kinds: Mapping[str, str]) -> list[tuple[str, list[int]]]:
    """Kinds in alphabetical order, each with the indices of its roles."""
    members: dict[str, list[int]] = {}
    for at, role in enumerate(roles):
        members.setdefault(kinds.get(role, "role"), []).append(at)
    return sorted(members.items())


def _layer_state(
    space: PersonaSpace, layer: int, parts: Sequence[Sequence[int]], ends: tuple[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a layer changes in the traces, and what in the axes.

    `parts` holds each trace's points: indices of roles, after which comes the default.
    """
    points_NK = np.vstack(
        [as_numpy(space.coordinates_LRK[layer]), as_numpy(space.default_coordinates_LK[layer])]
    )
    x = points_NK[:, 0].tolist()
    # With two roles there is one component only: all points lie on a line.
    y = points_NK[:, 1].tolist() if points_NK.shape[1] > 1 else [0.0] * len(x)
    x_range, y_range = theme.padded_range(x), theme.padded_range(y)
    # Blanks keep the name off the star's arms, which reach further than a dot.
    names = (*space.roles, f"\N{NO-BREAK SPACE}{DEFAULT_ROLE}\N{NO-BREAK SPACE}")
    positions = position_labels(
        Canvas(*_CANVAS_PX, x_range, y_range),
        list(zip(x, y, strict=True)),
        names,
        first=[len(space.roles)],
    )
    # A blank, not nothing: Plotly throws an empty text away and cannot bring it back at the next
    # layer.
    texts = [
        plain(name) if position else "\N{NO-BREAK SPACE}"
        for name, position in zip(names, positions, strict=True)
    ]
    columns: dict[str, Sequence[Any]] = {
        "x": theme.rounded(x),
        "y": theme.rounded(y),
        "text": texts,
        "textposition": [position or "top center" for position in positions],
    }
    traces = {
        name: [[column[at] for at in part] for part in parts] for name, column in columns.items()
    }
    pc1, *others = (percent(float(ratio)) for ratio in space.variance_ratio_LK[layer])
    axes = {
        "xaxis.range": x_range,
        "yaxis.range": y_range,
        "xaxis.title.text": f"← {ends[0]}    PC1 ({pc1} of variance)    {ends[1]} →",
        "yaxis.title.text": f"PC2 ({others[0]} of variance)" if others else "",
    }
    return traces, axes


def draw_variance(space: PersonaSpace, layer: int, *, shares: Sequence[float]) -> go.Figure:
    """Each component's share of the variance as bars, their running sum as a line.

    A guide stands at each of the shares (0 to 1) with how many components reach it.
    """
    ratios = as_numpy(space.variance_ratio_LK[layer])
    numbers = list(range(1, len(ratios) + 1))
    figure = theme.new_figure(310, margin={"r": 150, "t": 40, "b": 52}, hovermode="x unified")
    figure.add_bar(
        x=numbers,
        y=theme.rounded((100 * ratios).tolist()),
        name="each component",
        marker_color="#B9D7EA",
        hoverinfo="all",
    )
    figure.add_trace(
        theme.line(
            numbers,
            (100 * ratios.cumsum()).tolist(),
            name="all up to here",
            mode="lines+markers",
            line={"color": theme.INK, "width": 1.5},
            marker={"size": 5},
            hoverinfo="all",
        )
    )
    for share in shares:
        components = space.components_for(share, layer)
        reached = "more than kept" if components is None else counted(components, "component")
        theme.mark_level(figure, 100 * share, f"{percent(share)}: {reached}")
    figure.update_xaxes(title_text="component", tickvals=theme.whole_ticks(len(numbers), first=1))
    figure.update_yaxes(title_text="share of variance (%)", range=[0, 104])
    return figure


def draw_ranks(
    standings: Sequence[RoleStanding], *, kinds: Mapping[str, str], samples: Mapping[str, str]
) -> go.Figure:
    """One row per role and one for the default, the most Assistant-like on top."""
    default_row = sum(standing.gaps < 1 for standing in standings)
    rows = [at if at < default_row else at + 1 for at in range(len(standings))]
    groups = _group([standing.role for standing in standings], kinds)
    above = theme.legend_px(len(groups) + 1)
    figure = theme.new_figure(
        _ROW_PX * (len(standings) + 2) + above + _BELOW_PX,
        margin={"l": 120, "t": above, "b": _BELOW_PX},
    )
    stems_x = [x for standing in standings for x in (0.0, standing.gaps, None)]
    stems_y = [y for row in rows for y in (row, row, None)]
    figure.add_trace(theme.line(stems_x, stems_y, line={"color": "#D5D9DE", "width": 2}))
    kind_of = {standings[at].role: kind for kind, members in groups for at in members}
    texts = [
        hover_box(
            s.name,
            f"{fixed(s.gaps)} gap units, {counted(s.count, 'rollout')}, {kind_of[s.role]}",
            quote=samples.get(s.role, ""),
        )
        for s in standings
    ]
    for index, (kind, members) in enumerate(groups):
        colour, symbol = theme.kind_style(index)
        theme.add_points(
            figure,
            [standings[at].gaps for at in members],
            [rows[at] for at in members],
            [texts[at] for at in members],
            name=plain(kind),
            marker={"color": colour, "symbol": symbol, "size": 10},
            error_x=theme.error_bars(
                (_interval(standings[at]) for at in members), theme.PALE, width=0
            ),
        )
    sample = samples.get(DEFAULT_ROLE, "")
    theme.add_points(
        figure,
        [1.0],
        [default_row],
        [hover_box(DEFAULT_ROLE, "1 gap unit, by definition", quote=sample)],
        name=_DEFAULT_NAME,
        marker={"color": theme.DEFAULT_COLOUR, "symbol": "star", "size": 15},
    )
    theme.mark_value(figure, 0)
    theme.mark_value(figure, 1, theme.DEFAULT_COLOUR, "dash")
    figure.update_xaxes(
        title_text="← role-playing    projection in gap units (0 role mean, 1 default mean)    "
        "Assistant →",
        range=theme.padded_range([0.0, 1.0, *(s.gaps for s in standings)], share=0.04),
    )
    default = f'<span style="color:{theme.DEFAULT_COLOUR}"><b>{DEFAULT_ROLE}</b></span>'
    theme.name_rows(
        figure,
        [*rows, default_row],
        [*(plain(standing.name) for standing in standings), default],
        range=[-0.8, len(standings) + 0.8],
        tickfont={"size": theme.LABEL_PX},
    )
    return figure


def _interval(standing: RoleStanding) -> Interval:
    """The standing's interval; of no width where none is known."""
    return standing.interval or Interval(standing.gaps, standing.gaps, standing.gaps)


def draw_leanings(
    cosines: Sequence[tuple[str, Interval]], *, samples: Mapping[str, str]
) -> go.Figure:
    """One row per trait with its cosine's interval, the most Assistant-ward on top, as given."""
    rows = theme.rows_down(len(cosines))
    figure = theme.new_figure(
        _ROW_PX * (len(cosines) + 1) + _BELOW_PX + 24, margin={"l": 140, "b": _BELOW_PX}
    )
    values = [cosine for _, cosine in cosines]
    colours = {True: theme.DEFAULT_COLOUR, False: theme.ROLES_COLOUR}
    texts = [hover_box(name, c.text(), quote=samples.get(name, "")) for name, c in cosines]
    theme.add_points(
        figure,
        [cosine.value for cosine in values],
        rows,
        texts,
        marker={"size": 9, "color": [colours[cosine.value > 0] for cosine in values]},
        error_x=theme.error_bars(values, theme.PALE, thickness=1),
        showlegend=False,
    )
    theme.mark_value(figure, 0)
    ends = [end for cosine in values for end in (cosine.low, cosine.high)]
    figure.update_xaxes(
        title_text="← away from the Assistant    cosine with the axis    towards it →",
        range=theme.padded_range([0.0, *ends], share=0.04),
    )
    theme.name_rows(
        figure,
        rows,
        (plain(name) for name, _ in cosines),
        range=[-0.8, len(cosines) - 0.2],
        tickfont={"size": theme.LABEL_PX},
    )
    return figure


def draw_quality(
    quality: Sequence[LayerQuality], axis: AssistantAxis, *, band: Sequence[int] = ()
) -> go.Figure:
    """The six measures per layer, the recommended layer marked, the floors' band shaded."""
    figure = make_subplots(
        rows=3, cols=2, subplot_titles=_QUALITY_TITLES, vertical_spacing=0.1, horizontal_spacing=0.1
    )
    for row, col, trace in _quality_traces(quality, axis):
        figure.add_trace(trace, row=row, col=col)
    # The top margin leaves room for the row of buttons above the titles.
    theme.dress(figure, 800, margin={"l": 56, "r": 16, "t": 64, "b": 48})
    for axis_number in (3, 4):
        # At the bottom right within the subplot of the axes of that number.
        across = figure.layout[f"xaxis{axis_number}"].domain
        up = figure.layout[f"yaxis{axis_number}"].domain
        legend = {
            "x": across[0] + 0.98 * (across[1] - across[0]),
            "y": up[0] + 0.03 * (up[1] - up[0]),
            "xanchor": "right",
            "yanchor": "bottom",
            "bgcolor": "rgba(255,255,255,0.7)",
            "font": {"size": theme.LABEL_PX},
        }
        figure.update_layout({f"legend{axis_number - 1}": legend})
    figure.update_xaxes(tickvals=theme.whole_ticks(len(quality)))
    figure.update_xaxes(title_text="layer", row=3)
    figure.update_yaxes(**theme.log_axis(at.axis_norm for at in quality), row=3, col=1)
    figure.update_yaxes(range=[-4, 104], row=3, col=2)
    for col in (1, 2):
        drawn = (trace.y for trace in figure.select_traces(row=2, col=col))
        lowest = min([0.0, *(y - 0.03 for ys in drawn for y in ys if y is not None)])
        figure.update_yaxes(range=[lowest, 1.03], row=2, col=col)
    figure.update_annotations(font={"size": theme.FONT_PX + 1, "color": theme.INK})
    if band:
        theme.shade_values(figure, min(band) - 0.5, max(band) + 0.5, theme.FLOOR_COLOUR)
    theme.mark_value(figure, axis.layer, theme.INK, "dash")
    return figure


def _quality_traces(
    quality: Sequence[LayerQuality], axis: AssistantAxis
) -> Iterator[tuple[int, int, go.Scatter]]:
    """Row and column of a panel, and what is drawn there."""
    layers = [at.layer for at in quality]
    for row, col, intervals in (
        (1, 1, [at.auc for at in quality]),
        (1, 2, [at.d_prime for at in quality]),
        (2, 1, [at.cos_pc1 for at in quality]),
    ):
        yield row, col, theme.band(layers, intervals, theme.DEFAULT_COLOUR, _BAND_OPACITY)
        texts = [interval.text(number) for interval in intervals]
        yield row, col, _curve(layers, [interval.value for interval in intervals], texts)
    null = [at.cos_pc1_null for at in quality]
    name = "95 % of roles, as the default, lie below"
    yield 2, 1, _curve(layers, null, colour=theme.FAINT, dash="dot", name=name, legend="legend2")
    for name, cosines, colour, dash in (
        ("questions", [at.split_half_questions for at in quality], _GREEN, "solid"),
        ("roles", [at.split_half_roles for at in quality], _PURPLE, "dash"),
    ):
        yield 2, 2, _curve(layers, cosines, colour=colour, dash=dash, name=name, legend="legend3")
    texts = []
    for at in quality:
        norm = float(axis.residual_norm[at.layer])
        share = f"<br>{100 * at.axis_norm / norm:.1f} % of the residual norm" if norm > 0 else ""
        dims = f"<br>ten largest dimensions: {100 * at.top_dims_share:.0f} % of the square"
        texts.append(f"{number(at.axis_norm)}{share}{dims}")
    yield 3, 1, _curve(layers, [at.axis_norm for at in quality], texts)
    yield 3, 2, _curve(layers, [100 * at.default_percentile for at in quality])


def _curve(
    layers: Sequence[int],
    values: Sequence[float],
    texts: Sequence[str] = (),
    *,
    colour: str = theme.DEFAULT_COLOUR,
    dash: str = "solid",
    **trace: Any,
) -> go.Scatter:
    """A measure over the layers; hovering shows the layer and the text, or else the value."""
    shown = texts or [number(value) for value in values]
    return theme.line(
        layers,
        values,
        line={"color": colour, "width": 2, "dash": dash},
        hovertext=[f"layer {layer}: {text}" for layer, text in zip(layers, shown, strict=True)],
        **trace,
    )


def draw_components(parts: Mapping[str, Sequence[Interval]]) -> go.Figure:
    """Correlation of loadings on each component, with its interval; a group of bars per kind."""
    figure = theme.new_figure(320, barmode="group")
    for index, (name, correlations) in enumerate(parts.items()):
        colour, _ = theme.kind_style(index)
        figure.add_bar(
            x=[f"PC{component}" for component in range(1, len(correlations) + 1)],
            y=theme.rounded(correlation.value for correlation in correlations),
            error_y=theme.error_bars(correlations, theme.INK),
            name=plain(name),
            marker_color=colour,
            hoverinfo="all",
        )
    low = min([0.0, *(value.low for values in parts.values() for value in values)])
    figure.update_yaxes(title_text="correlation of loadings", range=[low * 1.05, 1.03])
    return figure


def draw_layers(curves: Mapping[str, Sequence[Interval]], layer: int) -> go.Figure:
    """Cosines at every layer with their intervals as bands, the layer read marked."""
    figure = theme.new_figure(360, hovermode="x unified")
    for index, (name, cosines) in enumerate(curves.items()):
        style = theme.line_style(index)
        layers = list(range(len(cosines)))
        figure.add_trace(theme.band(layers, cosines, style["color"], _BAND_OPACITY))
        values = [cosine.value for cosine in cosines]
        figure.add_trace(theme.line(layers, values, name=plain(name), line=style, hoverinfo="all"))
    count = max((len(cosines) for cosines in curves.values()), default=1)
    theme.mark_value(figure, layer, dash="dash")
    figure.update_xaxes(title_text="layer", tickvals=theme.whole_ticks(count))
    figure.update_yaxes(title_text="cosine")
    return figure


def draw_shifts(shifts: Sequence[Shift]) -> go.Figure:
    """A bar per role or trait, the one the default went towards most on top."""
    rows = theme.rows_down(len(shifts))
    figure = theme.new_figure(_SHIFT_ROW_PX * len(shifts) + 90, margin={"l": 140})
    colours = {True: theme.DEFAULT_COLOUR, False: theme.ROLES_COLOUR}
    figure.add_bar(
        x=theme.rounded(shift.share for shift in shifts),
        y=rows,
        orientation="h",
        marker_color=[colours[shift.share > 0] for shift in shifts],
        hovertext=[
            f"{signed(shift.share, form_of('cosine'))}, cosine {signed(shift.cosine)}"
            for shift in shifts
        ],
        showlegend=False,
    )
    theme.mark_value(figure, 0)
    figure.update_xaxes(title_text="← away    shift of the default    towards →")
    theme.name_rows(figure, rows, (plain(shift.name) for shift in shifts))
    return figure
