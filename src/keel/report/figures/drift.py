"""Conversations along the axis: turn by turn, token by token, and answered anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from keel.report.figures import theme
from keel.report.figures.theme import hover_box, plain
from keel.report.inputs import floor_in_gaps
from keel.types import AssistantAxis, DriftReading, Replay, TurnReading
from keel.words import fixed, number

_GAPS = "projection (gap units)"
_MOST_POINTS = 1500
"""Points of a token trace beyond which neighbours are averaged."""
_REPLAY_PX = 270
_FLOOR_LINE = {"color": theme.FLOOR_COLOUR, "width": 1.5, "dash": "dash"}
_MENU_STYLE = {
    "x": 0,
    "xanchor": "left",
    "y": 1.03,
    "yanchor": "bottom",
    "bgcolor": "white",
    "bordercolor": theme.EDGE,
    "font": {"size": theme.FONT_PX},
}


def draw_trajectories(readings: Sequence[DriftReading], axis: AssistantAxis | None) -> go.Figure:
    """One line per conversation over its assistant turns; unusually low turns in vermillion."""
    figure = theme.new_figure(430, margin={"r": 110, "t": 40, "b": 52})
    for index, reading in enumerate(readings):
        line = theme.line_style(index)
        figure.add_trace(_path(reading.turns, name=reading.conversation_id, line=line))
        if any(turn.gaps_alone is not None for turn in reading.turns):
            figure.add_trace(_alone(reading, line))
    expected = _expected(readings)
    if expected is not None:
        figure.add_trace(expected)
    floors = {
        (reading.layer, floor)
        for reading in readings
        if (floor := floor_in_gaps(axis, reading.floor, reading.layer)) is not None
    }
    _mark_means(figure)
    for layer, floor in sorted(floors):
        text = f"floor, layer {layer}"
        theme.mark_level(figure, floor, text, colour=theme.FLOOR_COLOUR, dash="dash")
    longest = max(len(reading.turns) for reading in readings)
    ticks = theme.whole_ticks(longest, first=1, most=20)
    figure.update_xaxes(title_text="assistant turn", tickvals=ticks)
    levels = [0.0, 1.0, *(floor for _, floor in floors)]
    gaps = [turn.gaps for reading in readings for turn in reading.turns]
    figure.update_yaxes(title_text=_GAPS, range=theme.padded_range([*levels, *gaps]))
    return figure


def _path(
    turns: Sequence[TurnReading],
    *,
    name: str,
    line: dict[str, Any],
    questions: Sequence[str] = (),
) -> go.Scatter:
    """Turns as a line; those that are unusually low are rings in vermillion."""
    said = questions or [""] * len(turns)
    low = [turn.is_low for turn in turns]
    return theme.line(
        [turn.turn + 1 for turn in turns],
        [turn.gaps for turn in turns],
        mode="lines+markers",
        name=plain(name),
        line=line,
        marker={
            "opacity": 1,
            "size": [10 if is_low else 7 for is_low in low],
            "symbol": ["circle-open" if is_low else "circle" for is_low in low],
            "color": [theme.FLOOR_COLOUR if is_low else line["color"] for is_low in low],
            "line": {"width": [2.5 if is_low else 0 for is_low in low]},
        },
        hovertext=[
            _describe(turn, name, question) for turn, question in zip(turns, said, strict=True)
        ],
    )


def _alone(reading: DriftReading, line: dict[str, Any]) -> go.Scatter:
    """The same turns without their history, dotted, hidden until the legend is clicked."""
    turns = [turn for turn in reading.turns if turn.gaps_alone is not None]
    return theme.line(
        [turn.turn + 1 for turn in turns],
        [turn.gaps_alone for turn in turns],
        mode="lines+markers",
        name=f"{plain(reading.conversation_id)}, without history",
        line={**line, "dash": "dot"},
        visible="legendonly",
        hovertext=[_describe(turn, reading.conversation_id) for turn in turns],
    )


def _expected(readings: Sequence[DriftReading]) -> go.Scatter | None:
    """The level that default conversations have at each turn; None where no reading knows it."""
    known = {
        turn.turn: turn.expected_gaps
        for reading in readings
        for turn in reading.turns
        if turn.expected_gaps is not None
    }
    if not known:
        return None
    return theme.line(
        [turn + 1 for turn in sorted(known)],
        [known[turn] for turn in sorted(known)],
        mode="lines",
        name="expected at this turn",
        line={"color": theme.DEFAULT_COLOUR, "width": 3, "dash": "dashdot"},
        hoverinfo="x+y+name",
    )


def _describe(turn: TurnReading, name: str, question: str = "") -> str:
    state = turn.mark if turn.is_low else ""
    detail = f"{fixed(turn.gaps)} gap units ({number(turn.projection)} raw)"
    if turn.expected_gaps is not None:
        detail += f", expected {fixed(turn.expected_gaps)}"
    if turn.gaps_alone is not None and turn.turn > 0:
        detail += f", without history {fixed(turn.gaps_alone)}"
    return hover_box(
        f"{name}, turn {turn.turn + 1}", detail, state, question=question, quote=turn.text
    )


def _mark_means(figure: go.Figure) -> None:
    theme.mark_level(figure, 1.0, "default mean", colour=theme.DEFAULT_COLOUR, dash="dash")
    theme.mark_level(figure, 0.0, "role mean", dash="dash")


def draw_tokens(readings: Sequence[DriftReading], axis: AssistantAxis | None) -> go.Figure:
    """Every token of one conversation at a time, its turns' means as steps; a menu chooses."""
    figure = theme.new_figure(380, margin={"r": 110, "t": 48, "b": 52})
    owners: list[int] = []
    """Of each trace the index of its conversation."""
    for index, reading in enumerate(readings):
        traces = _token_traces(reading, axis)
        for trace in traces:
            trace.visible = index == 0
        figure.add_traces(traces)
        owners += [index] * len(traces)
    if len(readings) > 1:
        buttons = [
            {
                "label": plain(reading.conversation_id),
                "method": "restyle",
                "args": [{"visible": [owner == index for owner in owners]}],
            }
            for index, reading in enumerate(readings)
        ]
        figure.update_layout(
            updatemenus=[{"buttons": buttons, **_MENU_STYLE}], legend={"x": 1, "xanchor": "right"}
        )
    if axis is not None:
        _mark_means(figure)
    figure.update_xaxes(title_text="content token of the assistant's turns")
    figure.update_yaxes(title_text=_GAPS if axis is not None else "projection (raw units)")
    return figure


def _token_traces(reading: DriftReading, axis: AssistantAxis | None) -> list[go.Scatter]:
    """Each token, each turn's mean as a level line over its tokens, and the floor."""

    def scale(raw: float) -> float:
        return raw if axis is None else axis.in_gaps(raw, reading.layer)

    values = [scale(value) for turn in reading.turns for value in turn.token_projections]
    step = -(-len(values) // _MOST_POINTS) or 1
    parts = [values[at : at + step] for at in range(0, len(values), step)]
    tokens = theme.line(
        range(1, len(values) + 1, step),
        theme.rounded((sum(part) / len(part) for part in parts), 4),
        name="each token" if step == 1 else f"mean of {step} tokens",
        line={"color": "#A9C9DF", "width": 1},
        hoverinfo="x+y",
    )
    x: list[float | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    start = 1
    for turn in reading.turns:
        count = max(len(turn.token_projections), 1)
        end = start + count - 1
        x += [start, (start + end) / 2, end, None]
        y += [*[scale(turn.projection)] * 3, None]
        texts += [_describe(turn, reading.conversation_id)] * 3 + [""]
        start += count
    mean_line = {"color": theme.INK, "width": 2.5}
    means = theme.line(x, y, name="mean of each turn", line=mean_line, hovertext=texts)
    if reading.floor is None or not values:
        return [tokens, means]
    return [tokens, means, _floor_line([1, len(values)], scale(reading.floor))]


def _floor_line(ends: Sequence[int], level: float) -> go.Scatter:
    return theme.line(ends, [level] * 2, name="floor", line=_FLOOR_LINE, hoverinfo="y+name")


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
    for index, replay in enumerate(replays):
        cell = {"row": index // columns + 1, "col": index % columns + 1}
        for trace in _replay_traces(replay, axis):
            trace.update(
                legendgroup=trace.legendgroup or trace.name,
                showlegend=bool(trace.name) and index == 0,
            )
            figure.add_trace(trace, **cell)
        figure.update_xaxes(tickvals=theme.whole_ticks(len(replay.turns), first=1), **cell)
    theme.dress(figure, _REPLAY_PX * rows + 110, margin={"t": 70, "b": 52})
    figure.update_layout(legend_y=1 + 34 / (_REPLAY_PX * rows))
    figure.update_annotations(font={"size": theme.FONT_PX + 1, "color": theme.INK})
    figure.update_xaxes(title_text="assistant turn", row=rows)
    turns = [turn for replay in replays for turn in replay.turns]
    gaps = [arm.gaps for turn in turns for arm in (turn.uncapped, turn.capped)]
    figure.update_yaxes(range=theme.padded_range([0.0, 1.0, *gaps]))
    figure.update_yaxes(title_text=_GAPS, col=1)
    for level, colour in ((1.0, theme.DEFAULT_COLOUR), (0.0, theme.FAINT)):
        theme.mark_level(figure, level, colour=colour)
    return figure


def _replay_traces(replay: Replay, axis: AssistantAxis | None) -> list[go.Scatter]:
    """Both arms, and the floor where there is one."""
    colours = {"uncapped": theme.ROLES_COLOUR, "capped": theme.DEFAULT_COLOUR}
    traces = [
        _path(
            [turn.capped if name == "capped" else turn.uncapped for turn in replay.turns],
            name=name,
            line={"color": colour, "width": 2.2},
            questions=[turn.user for turn in replay.turns],
        )
        for name, colour in colours.items()
    ]
    spreads = [(t.uncapped.turn + 1, t.spread) for t in replay.turns if t.spread is not None]
    for name, colour in colours.items() if spreads else ():
        intervals = [s.capped if name == "capped" else s.uncapped for _, s in spreads]
        band = theme.band([turn for turn, _ in spreads], intervals, colour, 0.18)
        traces.append(band.update(legendgroup=name))
    floor = floor_in_gaps(axis, replay.floor, replay.layer)
    if floor is not None and replay.turns:
        ends = [turn.uncapped.turn + 1 for turn in (replay.turns[0], replay.turns[-1])]
        traces.append(_floor_line(ends, floor))
    return traces
