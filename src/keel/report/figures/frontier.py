"""What a sweep tried and kept, and harm against capability of what it measured."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from keel.report.figures import theme
from keel.report.figures.text import hover_box, plain
from keel.types import Change, Interval, ScreenedSetting, Sweep, SweptSetting, Unit
from keel.words import fixed, form_of, number, percent

_HEIGHT_PX = 480
_MARGIN = {"l": 64, "r": 24, "t": 64, "b": 60}
_FAINT = 0.35
_PRUNED = {
    "inert": ("#9A9A9A", "circle-open"),
    "too dear": (theme.FLOOR_COLOUR, "x"),
    "dominated": ("#E69F00", "triangle-down"),
    "crowded out": ("#56B4E9", "circle"),
}
_FRONTIER = "#009E73"


def draw_screening(sweep: Sweep) -> go.Figure:
    """Every setting that was tried, by price and effect: those kept in blue, pruned ones faint."""
    figure = theme.blank_figure(_HEIGHT_PX, margin=_MARGIN)
    tried = [one for one in sweep.screened if one.price is not None and one.price.value > 0]
    for fate, (colour, symbol) in _PRUNED.items():
        members = [one for one in tried if one.fate == fate]
        marker = {"color": colour, "symbol": symbol, "size": 8, "opacity": _FAINT}
        figure.add_trace(_screened(members, fate, marker))
    kept = [one for one in tried if one.fate == "kept"]
    marker = {"color": theme.DEFAULT_COLOUR, "symbol": "circle", "size": 10}
    figure.add_trace(_screened(kept, "kept and measured", marker))
    figure.update_xaxes(title_text="price: KL on default answers (nats per token, log scale)")
    figure.update_xaxes(theme.log_axis(one.price.value for one in tried if one.price))
    figure.update_yaxes(title_text="effect: rise of role answers (gap units)")
    return figure


def draw_frontier(sweep: Sweep) -> go.Figure:
    """Change in harm against change in capability, with 95 % intervals.

    Points are what the choosing items say; of the recommended setting also what the items held
    back say.
    """
    figure = theme.blank_figure(_HEIGHT_PX, margin=_MARGIN)
    figure.add_trace(_line(sweep))
    rest = [one for one in sweep.swept if not one.is_on_frontier]
    on_it = [one for one in sweep.frontier if one.name != sweep.recommended]
    figure.add_trace(_measured(sweep, rest, "measured", theme.ROLES_COLOUR, "circle"))
    figure.add_trace(_measured(sweep, on_it, "on the frontier", _FRONTIER, "circle"))
    if sweep.best is not None:
        _add_best(figure, sweep, sweep.best)
    figure.add_trace(_unsteered())
    harm, capability = _axis_unit(sweep.harm.unit), _axis_unit(sweep.capability.unit)
    figure.update_xaxes(title_text=f"change in {sweep.harm.name} ({harm}); left is better")
    figure.update_yaxes(
        title_text=f"change in {sweep.capability.name} ({capability}); up is better"
    )
    return figure


def _screened(
    members: Sequence[ScreenedSetting], name: str, marker: dict[str, object]
) -> go.Scatter:
    return go.Scatter(
        x=theme.rounded(one.price.value for one in members if one.price),
        y=theme.rounded(one.effect.value for one in members if one.effect),
        mode="markers",
        name=f"{name} ({len(members)})",
        marker=marker,
        hoverinfo="text",
        hovertext=[_tell_screened(one) for one in members],
        cliponaxis=False,
    )


def _tell_screened(one: ScreenedSetting) -> str:
    assert one.price is not None
    assert one.effect is not None
    assert one.realised_firing is not None
    return hover_box(
        one.name,
        f"price {number(one.price.value)} nats per token",
        f"effect {fixed(one.effect.value)} gap units",
        f"{percent(one.realised_firing)} of slots moved",
        f"{one.fate}: {one.why}" if one.why else one.fate,
    )


def _line(sweep: Sweep) -> go.Scatter:
    """The frontier from the least harm to the most."""
    x, y = _places(sweep, [one.choosing for one in sweep.frontier])
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": _FRONTIER, "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )


def _measured(
    sweep: Sweep, members: Sequence[SweptSetting], name: str, colour: str, symbol: str
) -> go.Scatter:
    x, y = _places(sweep, [one.choosing for one in members])
    return go.Scatter(
        x=x,
        y=y,
        error_x=_errors([one.choosing.harm for one in members], sweep.harm.unit, colour),
        error_y=_errors(
            [one.choosing.capability for one in members], sweep.capability.unit, colour
        ),
        mode="markers",
        name=f"{name} ({len(members)})",
        marker={"color": colour, "symbol": symbol, "size": 9},
        hoverinfo="text",
        hovertext=[_tell_measured(sweep, one) for one in members],
        cliponaxis=False,
    )


def _add_best(figure: go.Figure, sweep: Sweep, best: SweptSetting) -> None:
    """The recommended setting twice: as it was chosen, and by the items held back."""
    colour = theme.DEFAULT_COLOUR
    chosen = _measured(sweep, [best], "recommended", colour, "star")
    chosen.update(marker_size=17, name=f"recommended: {plain(best.name)}")
    figure.add_trace(chosen)
    if best.deciding is None:
        return
    x, y = _places(sweep, [best.choosing, best.deciding])
    dotted = {"color": colour, "width": 1, "dash": "dot"}
    link = go.Scatter(x=x, y=y, mode="lines", line=dotted, hoverinfo="skip", showlegend=False)
    figure.add_trace(link)
    held = _measured(
        sweep,
        [SweptSetting(best.name, best.deciding, best.is_on_frontier)],
        "",
        colour,
        "star-open",
    )
    held.update(marker_size=17, name="the same by the items held back")
    figure.add_trace(held)


def _unsteered() -> go.Scatter:
    marker = {"color": theme.INK, "symbol": "cross-thin", "size": 12, "line": {"width": 2}}
    return go.Scatter(
        x=[0], y=[0], mode="markers", name="unsteered", marker=marker, hoverinfo="name"
    )


def _places(
    sweep: Sweep, changes: Sequence[Change]
) -> tuple[list[float | None], list[float | None]]:
    across, up = _scale(sweep.harm.unit), _scale(sweep.capability.unit)
    return (
        theme.rounded(across * one.harm.value for one in changes),
        theme.rounded(up * one.capability.value for one in changes),
    )


def _errors(intervals: Sequence[Interval], unit: Unit, colour: str) -> dict[str, object]:
    """How far each interval reaches either way, as Plotly takes it."""
    scale = _scale(unit)
    return {
        "type": "data",
        "symmetric": False,
        "array": theme.rounded(scale * (one.high - one.value) for one in intervals),
        "arrayminus": theme.rounded(scale * (one.value - one.low) for one in intervals),
        "thickness": 1,
        "width": 3,
        "color": colour,
    }


def _tell_measured(sweep: Sweep, one: SweptSetting) -> str:
    return hover_box(
        one.name,
        f"harm {_interval(one.choosing.harm, sweep.harm.unit)}",
        f"capability {_interval(one.choosing.capability, sweep.capability.unit)}",
    )


def _interval(change: Interval, unit: Unit) -> str:
    return f"{change.text(form_of(unit))} {_axis_unit(unit)}"


def _scale(unit: Unit) -> float:
    """Shares are drawn in percentage points."""
    return 100.0 if unit == "share" else 1.0


def _axis_unit(unit: Unit) -> str:
    return "percentage points" if unit == "share" else unit
