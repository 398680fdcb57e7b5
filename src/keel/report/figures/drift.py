"""Conversations along the axis: turn by turn, token by token, and answered anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from keel.report.figures import theme
from keel.report.figures.text import hover_box, plain
from keel.report.standings import floor_in_gaps
from keel.types import AssistantAxis, DriftReading, Replay, TurnReading
from keel.words import fixed, number

_GAPS = "projection (gap units)"
_MOST_POINTS = 1500
"""Points of a token trace beyond which neighbours are averaged."""
_REPLAY_PX = 270


def draw_trajectories(readings: Sequence[DriftReading], axis: AssistantAxis | None) -> go.Figure:
    """One line per conversation over its assistant turns; turns under the floor in vermillion."""
    figure = theme.blank_figure(430, margin={"l": 64, "r": 110, "t": 40, "b": 52})
    for place, reading in enumerate(readings):
        line = theme.line_style(place)
        figure.add_trace(_path(reading.turns, name=reading.conversation_id, line=line))
    longest = max(len(reading.turns) for reading in readings)
    marks = {
        (reading.layer, floor_in_gaps(axis, reading.floor, reading.layer)) for reading in readings
    }
    _mark_means(figure)
    for layer, floor in sorted((at, floor) for at, floor in marks if floor is not None):
        _mark_level(figure, floor, f"floor, layer {layer}", colour=theme.FLOOR_COLOUR)
    figure.update_xaxes(
        title_text="assistant turn", tickvals=theme.whole_ticks(longest, first=1, most=20)
    )
    levels = [0.0, 1.0, *(floor for _, floor in marks if floor is not None)]
    gaps = [turn.gaps for reading in readings for turn in reading.turns]
    figure.update_yaxes(title_text=_GAPS, range=theme.padded_range([*levels, *gaps]))
    return figure


def draw_tokens(readings: Sequence[DriftReading], axis: AssistantAxis | None) -> go.Figure:
    """Every token of one conversation at a time, its turns' means as steps; a menu chooses."""
    figure = theme.blank_figure(380, margin={"l": 64, "r": 110, "t": 48, "b": 52})
    counts = []
    for place, reading in enumerate(readings):
        traces = _token_traces(reading, axis)
        for trace in traces:
            trace.visible = place == 0
        figure.add_traces(traces)
        counts.append(len(traces))
    if len(readings) > 1:
        names = [plain(reading.conversation_id) for reading in readings]
        figure.update_layout(
            updatemenus=[_menu(names, counts)], legend={"x": 1, "xanchor": "right"}
        )
    if axis is not None:
        _mark_means(figure)
    figure.update_xaxes(title_text="content token of the assistant's turns")
    figure.update_yaxes(title_text=_GAPS if axis is not None else "projection (raw units)")
    return figure


def draw_replays(replays: Sequence[Replay], axis: AssistantAxis | None) -> go.Figure:
    """Per replay, the same user messages answered uncapped and capped."""
    columns = min(2, len(replays))
    rows = -(-len(replays) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[plain(replay.conversation_id) for replay in replays],
        vertical_spacing=0.3 / rows if rows > 1 else 0,
        horizontal_spacing=0.08,
    )
    for place, replay in enumerate(replays):
        _add_replay(
            figure,
            replay,
            axis,
            row=place // columns + 1,
            col=place % columns + 1,
            is_first=place == 0,
        )
    theme.dress(figure, _REPLAY_PX * rows + 110, margin={"l": 64, "r": 24, "t": 70, "b": 52})
    figure.update_layout(legend_y=1 + 34 / (_REPLAY_PX * rows))
    figure.update_annotations(font={"size": theme.FONT_PX + 1, "color": theme.INK})
    figure.update_xaxes(title_text="assistant turn", row=rows)
    turns = [turn for replay in replays for turn in replay.turns]
    gaps = [arm.gaps for turn in turns for arm in (turn.uncapped, turn.capped)]
    figure.update_yaxes(range=theme.padded_range([0.0, 1.0, *gaps]))
    figure.update_yaxes(title_text=_GAPS, col=1)
    for level, colour in ((1.0, theme.DEFAULT_COLOUR), (0.0, theme.FAINT)):
        line = {"color": colour, "width": 1, "dash": "dot"}
        figure.add_hline(y=level, line=line, row="all", col="all")
    return figure


def _path(turns: Sequence[TurnReading], *, name: str, line: dict[str, Any]) -> go.Scatter:
    under = [turn.is_below_floor is True for turn in turns]
    return go.Scatter(
        x=[turn.turn + 1 for turn in turns],
        y=theme.rounded(turn.gaps for turn in turns),
        mode="lines+markers",
        name=plain(name),
        line=line,
        marker={
            "opacity": 1,
            "size": [10 if is_under else 7 for is_under in under],
            "symbol": ["circle-open" if is_under else "circle" for is_under in under],
            "color": [theme.FLOOR_COLOUR if is_under else line["color"] for is_under in under],
            "line": {"width": [2.5 if is_under else 0 for is_under in under]},
        },
        hoverinfo="text",
        hovertext=[_describe(turn, name) for turn in turns],
    )


def _describe(turn: TurnReading, name: str) -> str:
    state = "under the floor" if turn.is_below_floor else ""
    detail = f"{fixed(turn.gaps)} gap units ({number(turn.projection)} raw)"
    return hover_box(f"{name}, turn {turn.turn + 1}", detail, state, quote=turn.text)


def _mark_means(figure: go.Figure) -> None:
    _mark_level(figure, 1.0, "default mean", colour=theme.DEFAULT_COLOUR)
    _mark_level(figure, 0.0, "role mean", colour=theme.FAINT)


def _mark_level(figure: go.Figure, level: float, told: str, *, colour: str) -> None:
    figure.add_hline(
        y=level,
        line={"color": colour, "width": 1.2, "dash": "dash"},
        annotation={
            "text": told,
            "font": {"size": theme.LABEL_PX, "color": colour},
            "x": 1.005,
            "xanchor": "left",
            "yanchor": "middle",
        },
    )


def _token_traces(reading: DriftReading, axis: AssistantAxis | None) -> list[go.Scatter]:
    scale: Callable[[float], float] = (
        (lambda raw: axis.in_gaps(raw, reading.layer)) if axis is not None else (lambda raw: raw)
    )
    values = [scale(value) for turn in reading.turns for value in turn.token_projections]
    step = -(-len(values) // _MOST_POINTS) or 1
    told = "each token" if step == 1 else f"mean of {step} tokens"
    traces = [
        go.Scatter(
            x=list(range(1, len(values) + 1, step)),
            y=theme.rounded(
                (_mean(values[at : at + step]) for at in range(0, len(values), step)), 4
            ),
            mode="lines",
            name=told,
            line={"color": "#A9C9DF", "width": 1},
            hoverinfo="x+y",
        ),
        _turn_steps(reading, scale),
    ]
    if reading.floor is not None and values:
        traces.append(_floor_line(scale(reading.floor), len(values)))
    return traces


def _turn_steps(reading: DriftReading, scale: Callable[[float], float]) -> go.Scatter:
    """Each turn's mean as a level line over its tokens."""
    x: list[float | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    start = 1
    for turn in reading.turns:
        end = start + max(len(turn.token_projections) - 1, 0)
        x += [start, (start + end) / 2, end, None]
        y += [*theme.rounded([scale(turn.projection)] * 3), None]
        texts += [_describe(turn, reading.conversation_id)] * 3 + [""]
        start = end + 1
    line = {"color": theme.INK, "width": 2.5}
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        name="mean of each turn",
        line=line,
        hoverinfo="text",
        hovertext=texts,
    )


def _floor_line(level: float, tokens: int) -> go.Scatter:
    line = {"color": theme.FLOOR_COLOUR, "width": 1.5, "dash": "dash"}
    return go.Scatter(
        x=[1, tokens],
        y=theme.rounded([level] * 2),
        mode="lines",
        name="floor",
        line=line,
        hoverinfo="y+name",
    )


def _menu(names: Sequence[str], counts: Sequence[int]) -> dict[str, Any]:
    """A menu that shows the traces of one conversation."""
    owners = [place for place, count in enumerate(counts) for _ in range(count)]
    buttons = [
        {
            "label": name,
            "method": "restyle",
            "args": [{"visible": [owner == place for owner in owners]}],
        }
        for place, name in enumerate(names)
    ]
    return {
        "buttons": buttons,
        "x": 0,
        "xanchor": "left",
        "y": 1.03,
        "yanchor": "bottom",
        "bgcolor": "white",
        "bordercolor": "#C9CDD3",
        "font": {"size": theme.FONT_PX},
    }


def _add_replay(
    figure: go.Figure,
    replay: Replay,
    axis: AssistantAxis | None,
    *,
    row: int,
    col: int,
    is_first: bool,
) -> None:
    arms = (
        ("uncapped", [turn.uncapped for turn in replay.turns], theme.ROLES_COLOUR),
        ("capped", [turn.capped for turn in replay.turns], theme.DEFAULT_COLOUR),
    )
    for name, turns, colour in arms:
        trace = _path(turns, name=name, line={"color": colour, "width": 2.2})
        trace.update(legendgroup=name, showlegend=is_first)
        figure.add_trace(trace, row=row, col=col)
    ticks = theme.whole_ticks(len(replay.turns), first=1)
    figure.update_xaxes(tickvals=ticks, row=row, col=col)
    floor = floor_in_gaps(axis, replay.floor, replay.layer)
    if floor is not None and replay.turns:
        ends = [turn.uncapped.turn + 1 for turn in (replay.turns[0], replay.turns[-1])]
        line = {"color": theme.FLOOR_COLOUR, "width": 1.5, "dash": "dash"}
        figure.add_scatter(
            x=ends,
            y=theme.rounded([floor] * 2),
            mode="lines",
            name="floor",
            line=line,
            legendgroup="floor",
            showlegend=is_first,
            hoverinfo="y+name",
            row=row,
            col=col,
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
