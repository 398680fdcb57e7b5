"""What a sweep tried and kept, and harm against capability of what it measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from keel.report.figures import theme
from keel.report.figures.theme import hover_box, plain
from keel.types import Change, Interval, ScreenedSetting, Sweep, Unit
from keel.words import fixed, form_of, number, percent

_HEIGHT_PX = 480
_MARGIN = {"t": 64, "b": 60}
_FAINT = 0.35
_PRUNED = {
    "inert": ("#9A9A9A", "circle-open"),
    "too dear": (theme.FLOOR_COLOUR, "x"),
    "dominated": ("#E69F00", "triangle-down"),
    "crowded out": ("#56B4E9", "circle"),
}
_FRONTIER_COLOUR = "#009E73"


def draw_screening(sweep: Sweep) -> go.Figure:
    """Every setting that was tried, by price and effect: those kept in blue, pruned ones faint."""
    figure = theme.new_figure(_HEIGHT_PX, margin=_MARGIN)
    tried = [s for s in sweep.screened if s.price is not None and s.price.value > 0]
    styles: dict[str, dict[str, Any]] = {
        fate: {"color": colour, "symbol": symbol, "size": 8, "opacity": _FAINT}
        for fate, (colour, symbol) in _PRUNED.items()
    }
    styles["kept"] = {"color": theme.DEFAULT_COLOUR, "symbol": "circle", "size": 10}
    for fate, marker in styles.items():
        members = [setting for setting in tried if setting.fate == fate]
        name = "kept and measured" if fate == "kept" else fate
        figure.add_trace(
            theme.points(
                [setting.price.value for setting in members if setting.price],
                [setting.effect.value for setting in members if setting.effect],
                [_describe_screened(setting) for setting in members],
                name=f"{name} ({len(members)})",
                marker=marker,
            )
        )
    figure.update_xaxes(title_text="price: KL on default answers (nats per token, log scale)")
    figure.update_xaxes(theme.log_axis(s.price.value for s in tried if s.price))
    figure.update_yaxes(title_text="effect: rise of role answers (gap units)")
    return figure


def draw_frontier(sweep: Sweep) -> go.Figure:
    """Change in harm against change in capability, with 95 % intervals.

    Points are what the choosing items say; of the recommended setting also what the items held
    back say.
    """
    figure = theme.new_figure(_HEIGHT_PX, margin=_MARGIN)
    x, y = _coordinates(sweep, [setting.choosing for setting in sweep.frontier])
    dotted = {"color": _FRONTIER_COLOUR, "width": 1.5, "dash": "dot"}
    figure.add_trace(theme.line(x, y, line=dotted))
    rest = [s for s in sweep.swept if not s.is_on_frontier]
    on_it = [s for s in sweep.frontier if s.name != sweep.recommended]
    for name, members, colour in (
        ("measured", rest, theme.ROLES_COLOUR),
        ("on the frontier", on_it, _FRONTIER_COLOUR),
    ):
        changes = {setting.name: setting.choosing for setting in members}
        figure.add_trace(_changes(sweep, changes, f"{name} ({len(members)})", colour))
    if sweep.best is not None:
        _add_best(figure, sweep)
    figure.add_trace(
        theme.points(
            [0],
            [0],
            [],
            name="unsteered",
            marker={"color": theme.INK, "symbol": "cross-thin", "size": 12, "line": {"width": 2}},
            hoverinfo="name",
        )
    )
    harm, capability = _unit_name(sweep.harm.unit), _unit_name(sweep.capability.unit)
    figure.update_xaxes(title_text=f"change in {sweep.harm.name} ({harm}); left is better")
    figure.update_yaxes(
        title_text=f"change in {sweep.capability.name} ({capability}); up is better"
    )
    return figure


def _describe_screened(setting: ScreenedSetting) -> str:
    assert setting.price is not None
    assert setting.effect is not None
    assert setting.realised_firing is not None
    return hover_box(
        setting.name,
        f"price {number(setting.price.value)} nats per token",
        f"effect {fixed(setting.effect.value)} gap units",
        f"{percent(setting.realised_firing)} of slots moved",
        f"{setting.fate}: {setting.why}" if setting.why else setting.fate,
    )


def _changes(
    sweep: Sweep, changes: dict[str, Change], name: str, colour: str, **marker: Any
) -> go.Scatter:
    """A point with both its intervals for each change, by the names of their settings."""
    members = list(changes.values())
    x, y = _coordinates(sweep, members)
    harms = [change.harm for change in members]
    capabilities = [change.capability for change in members]
    across, up = _scale(sweep.harm.unit), _scale(sweep.capability.unit)
    return theme.points(
        x,
        y,
        [
            hover_box(
                setting,
                f"harm {_describe_change(change.harm, sweep.harm.unit)}",
                f"capability {_describe_change(change.capability, sweep.capability.unit)}",
            )
            for setting, change in changes.items()
        ],
        error_x=theme.error_bars(harms, colour, across, thickness=1, width=3),
        error_y=theme.error_bars(capabilities, colour, up, thickness=1, width=3),
        name=name,
        marker={"color": colour, "symbol": "circle", "size": 9, **marker},
    )


def _add_best(figure: go.Figure, sweep: Sweep) -> None:
    """The recommended setting twice: as it was chosen, and by the items held back."""
    best, colour = sweep.best, theme.DEFAULT_COLOUR
    assert best is not None
    name = f"recommended: {plain(best.name)}"
    chosen = {best.name: best.choosing}
    figure.add_trace(_changes(sweep, chosen, name, colour, symbol="star", size=17))
    if best.deciding is None:
        return
    x, y = _coordinates(sweep, [best.choosing, best.deciding])
    figure.add_trace(theme.line(x, y, line={"color": colour, "width": 1, "dash": "dot"}))
    name, held_back = "the same by the items held back", {best.name: best.deciding}
    figure.add_trace(_changes(sweep, held_back, name, colour, symbol="star-open", size=17))


def _coordinates(sweep: Sweep, changes: Sequence[Change]) -> tuple[list[float], list[float]]:
    across, up = _scale(sweep.harm.unit), _scale(sweep.capability.unit)
    return (
        [across * change.harm.value for change in changes],
        [up * change.capability.value for change in changes],
    )


def _describe_change(change: Interval, unit: Unit) -> str:
    return f"{change.text(form_of(unit))} {_unit_name(unit)}"


def _scale(unit: Unit) -> float:
    """Shares are drawn in percentage points."""
    return 100.0 if unit == "share" else 1.0


def _unit_name(unit: Unit) -> str:
    return "percentage points" if unit == "share" else unit
