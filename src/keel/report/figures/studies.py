"""A drift study: domains turn by turn, and what predicts the next answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from keel.arrays import as_numpy
from keel.report.figures import theme
from keel.report.figures.theme import hover_box
from keel.types import (
    NEUTRAL_DOMAIN,
    DomainPath,
    DriftStudy,
    Interval,
    PersonaMap,
    PredictionRow,
)
from keel.words import fixed

_COLUMNS = 2
_ROW_PX = 250
_FOREST_ROW_PX = 26
_PLANE_PX = 520


def draw_domains(study: DriftStudy) -> go.Figure:
    """A small plot per domain, a line with its band per arm, and the neutral arm's in grey."""
    with_history = [path for path in study.paths if path.reading == "with history"]
    domains = list(dict.fromkeys(path.domain for path in with_history))
    shown = [domain for domain in domains if domain != NEUTRAL_DOMAIN] or domains
    rows = -(-len(shown) // _COLUMNS)
    figure = make_subplots(
        rows=rows,
        cols=_COLUMNS,
        subplot_titles=shown,
        vertical_spacing=0.3 / rows if rows > 1 else 0,
        horizontal_spacing=0.08,
        shared_yaxes=True,
    )
    for index, domain in enumerate(shown):
        cell = {"row": index // _COLUMNS + 1, "col": index % _COLUMNS + 1}
        for number, arm in enumerate(study.arms):
            figure.add_trace(_single_conversations(study, arm, domain, number), **cell)
        for path in with_history:
            if path.domain in (domain, NEUTRAL_DOMAIN):
                for trace in _traces(path, study):
                    trace.showlegend = bool(trace.name) and index == 0
                    figure.add_trace(trace, **cell)
        figure.update_xaxes(tickvals=theme.whole_ticks(study.turns, first=1), **cell)
    theme.dress(figure, _ROW_PX * rows + 110, margin={"t": 70, "b": 52})
    figure.update_layout(legend_y=1 + 34 / (_ROW_PX * rows))  # above the domains' names
    figure.update_annotations(font={"size": theme.FONT_PX + 1, "color": theme.INK})
    figure.update_xaxes(title_text="turn", row=rows)
    levels = [level.value for path in with_history for level in path.levels]
    figure.update_yaxes(range=theme.padded_range([0.0, 1.0, *levels], 0.2))
    figure.update_yaxes(title_text="level (gap units)", col=1)
    for level, colour in ((1.0, theme.DEFAULT_COLOUR), (0.0, theme.FAINT)):
        theme.mark_level(figure, level, colour=colour)
    return figure


def _single_conversations(study: DriftStudy, arm: str, domain: str, number: int) -> go.Scatter:
    """All conversations of a domain under an arm as one broken thin line."""
    x: list[float | None] = []
    y: list[float | None] = []
    for path in study.conversation_paths:
        if (path.arm, path.domain) == (arm, domain):
            x += [*range(1, 1 + len(path.levels)), None]
            y += [*path.levels, None]
    style = {**theme.line_style(number), "width": 0.7}
    return theme.line(x, y, line=style, opacity=0.35, legendgroup=f"{arm}, single conversations")


def draw_plane(study: DriftStudy, persona_map: PersonaMap | None) -> go.Figure:
    """Mean turns of each domain under the first arm in the plane of two components, over roles."""
    figure = theme.new_figure(_PLANE_PX, margin={"t": 60})
    if persona_map is not None:
        space, layer = persona_map.space, study.layer
        gap = float(persona_map.axis.gap[layer])
        roles_RK = (as_numpy(space.coordinates_LRK[layer, :, :2]) / gap).tolist()
        default_K = (as_numpy(space.default_coordinates_LK[layer, :2]) / gap).tolist()
        for points, names, marker in (
            (roles_RK, space.roles, {"color": theme.PALE, "size": 5}),
            ([default_K], ("default",), {"color": theme.DEFAULT_COLOUR, "symbol": "star"}),
        ):
            theme.add_points(
                figure,
                [x for x, _ in points],
                [y for _, y in points],
                [hover_box(name) for name in names],
                marker={"size": 15, **marker},
                showlegend=False,
            )
    domains = dict.fromkeys(path.domain for path in study.paths)
    for index, domain in enumerate(domains):
        paths = {p.reading: p for p in study.paths if (p.arm, p.domain) == (study.arms[0], domain)}
        if not {"along PC1", "along PC2"} <= paths.keys():
            continue
        first, second = paths["along PC1"].levels, paths["along PC2"].levels
        style = theme.line_style(index)
        if domain == NEUTRAL_DOMAIN:
            style["color"] = theme.ROLES_COLOUR
        _add_trajectory(figure, domain, first, second, style)
    figure.update_xaxes(title_text="PC1 (gap units)")
    figure.update_yaxes(title_text="PC2 (gap units)", scaleanchor="x")
    return figure


def _add_trajectory(
    figure: go.Figure,
    domain: str,
    first: Sequence[Interval],
    second: Sequence[Interval],
    style: dict[str, Any],
) -> None:
    """A line from turn to turn, hollow at the first, with bars at the last."""
    turns = range(1, 1 + len(first))
    x, y = [at.value for at in first], [at.value for at in second]
    figure.add_trace(
        theme.line(
            x,
            y,
            mode="lines+markers",
            name=domain,
            line=style,
            marker={"size": 5},
            hovertext=[
                hover_box(f"{domain}, turn {turn}", f"PC1 {pc1.text()}", f"PC2 {pc2.text()}")
                for turn, pc1, pc2 in zip(turns, first, second, strict=True)
            ],
        )
    )
    for at, symbol in ((0, "circle-open"), (-1, "circle")):
        is_last = at == -1
        theme.add_points(
            figure,
            [x[at]],
            [y[at]],
            [hover_box(f"{domain}, turn {turns[at]}")],
            marker={"size": 11, "color": style["color"], "symbol": symbol},
            showlegend=False,
            **(
                {
                    "error_x": theme.error_bars([first[at]], style["color"]),
                    "error_y": theme.error_bars([second[at]], style["color"]),
                }
                if is_last
                else {}
            ),
        )


def _traces(path: DomainPath, study: DriftStudy) -> list[go.Scatter]:
    """A path's band and line."""
    index = study.arms.index(path.arm)
    is_neutral = path.domain == NEUTRAL_DOMAIN
    style: dict[str, Any] = theme.line_style(index)
    if is_neutral:
        style |= {"color": theme.ROLES_COLOUR, "dash": "dash" if index else "solid", "width": 1.4}
    turns = list(range(1, 1 + len(path.levels)))
    name = f"{path.arm}, {NEUTRAL_DOMAIN}" if is_neutral else path.arm
    line = theme.line(
        turns,
        [level.value for level in path.levels],
        name=name,
        legendgroup=name,
        line=style,
        hovertext=[
            hover_box(f"{path.domain}, turn {turn}", level.text(), f"{count} conversations")
            for turn, level, count in zip(turns, path.levels, path.counts, strict=True)
        ],
    )
    band = theme.band(turns, path.levels, style["color"], 0.1 if is_neutral else 0.18)
    return [band.update(legendgroup=name), line]


def draw_prediction(rows: Sequence[PredictionRow]) -> go.Figure:
    """A row per set of columns with its interval, a cross at its null; in sample hollow."""
    heights = theme.rows_down(len(rows))
    figure = theme.new_figure(_FOREST_ROW_PX * len(rows) + 100, margin={"l": 330})
    for is_in_sample in (False, True):
        chosen = [n for n, row in enumerate(rows) if row.is_in_sample == is_in_sample]
        intervals = [rows[n].r2 for n in chosen]
        bars = {} if is_in_sample else {"error_x": theme.error_bars(intervals, thickness=1.4)}
        theme.add_points(
            figure,
            [interval.value for interval in intervals],
            [heights[n] for n in chosen],
            [hover_box(rows[n].columns, rows[n].target, fixed(rows[n].r2.value)) for n in chosen],
            marker={
                "size": 10,
                "color": theme.DEFAULT_COLOUR,
                "symbol": "circle-open" if is_in_sample else "circle",
            },
            showlegend=False,
            **bars,
        )
    nulls = [(n, row.null95) for n, row in enumerate(rows) if row.null95 is not None]
    theme.add_points(
        figure,
        [null for _, null in nulls],
        [heights[n] for n, _ in nulls],
        [hover_box(rows[n].columns, f"95 % of permutations below {fixed(v)}") for n, v in nulls],
        marker={"size": 9, "color": theme.FLOOR_COLOUR, "symbol": "x-thin", "line": {"width": 2}},
        showlegend=False,
    )
    theme.mark_value(figure, 0.0, dash="dash")
    names = (f"{row.target}: {row.columns}" for row in rows)
    theme.name_rows(figure, heights, names, range=[-0.6, len(rows) - 0.4])
    figure.update_xaxes(title_text="share of variance explained (R²)")
    return figure
