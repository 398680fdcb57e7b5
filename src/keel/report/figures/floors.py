"""Floors: where they lie among the projections, how often they fire, what they cost; sweeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from keel.report.figures import theme
from keel.report.figures.theme import Canvas, hover_box, plain, position_labels
from keel.types import Calibration, Change, LayerCalibration, PricedSetting, Sweep, Unit
from keel.words import fixed, form_of, number, percent

SELDOM, ALWAYS = 0.15, 0.80
"""Firing rates under which a floor hardly acts, and over which it pushes rather than caps."""
_ROW_PX = 190
_SCATTER_PX = 480
_MARGIN = {"l": 64, "r": 24, "t": 40, "b": 60}
_CANVAS_PX = (770.0, _SCATTER_PX - _MARGIN["t"] - _MARGIN["b"])
_WIDE = 20.0
"""Ratio of largest to smallest price from which the price axis is logarithmic."""
_SWEEP_MARGIN = {"t": 64, "b": 60}
_FAINT = 0.35
_PRUNED = {
    "inert": ("#9A9A9A", "circle-open"),
    "too dear": (theme.FLOOR_COLOUR, "x"),
    "dominated": ("#E69F00", "triangle-down"),
    "crowded out": ("#56B4E9", "circle"),
}
_FRONTIER_COLOUR = "#009E73"


def draw_histograms(layers: Sequence[LayerCalibration], floors: Mapping[int, float]) -> go.Figure:
    """One panel per layer: per-token projections of default and roles, and the floor."""
    panels = len(layers)
    # Panels side by side: as few empty cells as can be.
    columns = panels if panels < 4 else min((4, 5, 3), key=lambda columns: -panels % columns)
    rows = -(-panels // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[f"layer {layer.layer}" for layer in layers],
        x_title="projection (raw units)",
        vertical_spacing=0.34 / rows if rows > 1 else 0,
        horizontal_spacing=0.05,
    )
    for index, layer in enumerate(layers):
        for trace in _panel(layer, floors[layer.layer]):
            trace.update(legendgroup=trace.name, showlegend=index == 0)
            figure.add_trace(trace, row=index // columns + 1, col=index % columns + 1)
    theme.dress(figure, _ROW_PX * rows + 130, margin={"l": 56, "r": 16, "t": 68, "b": 52})
    figure.update_layout(legend_y=1 + 34 / (_ROW_PX * rows))
    figure.update_annotations(font={"size": theme.FONT_PX, "color": theme.INK})
    figure.update_yaxes(rangemode="tozero", nticks=5, showline=False)
    figure.update_yaxes(title_text="tokens (%)", col=1)
    return figure


def _panel(layer: LayerCalibration, floor: float) -> list[go.Scatter]:
    """Both histograms as the outlines of their bars, and the floor as an upright line."""
    edges = [layer.bin_edges[0], *layer.bin_edges]
    outlines = [
        theme.line(
            edges,
            [0.0, *(100 * share for share in shares), 0.0],
            name=name,
            line={"color": colour, "width": 1.2, "shape": "hv"},
            fill="tozeroy",
            fillcolor=fill,
            hoverinfo="x+y+name",
        )
        for name, shares, colour, fill in (
            ("role tokens", layer.role_share, theme.ROLES_COLOUR, "rgba(138,143,152,0.28)"),
            ("default tokens", layer.default_share, theme.DEFAULT_COLOUR, "rgba(0,114,178,0.22)"),
        )
    ]
    top = 100 * max([*layer.default_share, *layer.role_share], default=0.0)
    mark = theme.line(
        [floor, floor],
        [0.0, 1.05 * top],
        name="floor",
        line={"color": theme.FLOOR_COLOUR, "width": 2},
        hovertext=f"floor {floor:.4g}",
    )
    return [*outlines, mark]


def draw_firing(setting: PricedSetting) -> go.Figure:
    """Share of tokens that each floor of a setting moves, nominal beside realised."""
    layers = sorted(set(setting.nominal_firing) | set(setting.realised_firing))
    figure = theme.new_figure(
        340, margin={"r": 170, "t": 40, "b": 52}, barmode="group", bargap=0.35, bargroupgap=0.08
    )
    for name, firing, colour in (
        ("nominal: this floor alone", setting.nominal_firing, "#BFC4CB"),
        ("realised: the whole band at once", setting.realised_firing, theme.FLOOR_COLOUR),
    ):
        shares = [firing.get(layer, 0.0) for layer in layers]
        figure.add_bar(
            x=[str(layer) for layer in layers],
            y=theme.rounded(100 * share for share in shares),
            name=name,
            marker_color=colour,
            hovertext=[
                f"layer {layer}: {percent(share, 1)}"
                for layer, share in zip(layers, shares, strict=True)
            ],
        )
    theme.mark_level(figure, 100 * SELDOM, "under 15 %: hardly acts")
    theme.mark_level(figure, 100 * ALWAYS, "over 80 %: constant push")
    figure.update_xaxes(title_text="layer", type="category")
    figure.update_yaxes(title_text="tokens moved (%)", range=[0, 100])
    return figure


def draw_prices(calibration: Calibration) -> go.Figure:
    """Every setting by price and effect, the bound as a line, the chosen one in blue."""
    settings, bound = calibration.settings, calibration.price_bound
    prices = [*(setting.kl_default for setting in settings), bound]
    is_log = min(prices) > 0 and max(prices) / min(prices) > _WIDE
    # Ranges and texts of a logarithmic axis are given to Plotly as logarithms.
    *at_x, bound_x = (math.log10(price) if is_log else price for price in prices)
    effects = [setting.shift_gaps for setting in settings]
    texts = [_describe(s.name, s.kl_default, s.shift_gaps, s.firing_rate) for s in settings]
    x_range = theme.padded_range([*at_x, bound_x])
    y_range = theme.padded_range([0.0, *effects])
    canvas = Canvas(*_CANVAS_PX, x_range, y_range)
    bound_px = canvas.pixels(bound_x, 0)[0]
    chosen = [at for at, setting in enumerate(settings) if setting.name == calibration.chosen]
    positions = position_labels(
        canvas,
        list(zip(at_x, effects, strict=True)),
        [setting.name for setting in settings],
        first=chosen,
        kept_free=[(bound_px - 1, 0, bound_px + 1, canvas.height_px)],
        radius_px=7.0,
    )
    figure = theme.new_figure(_SCATTER_PX, margin=_MARGIN)
    tried = [at for at in range(len(settings)) if at not in chosen]
    for name, members, marker in (
        ("tried", tried, {"color": theme.ROLES_COLOUR, "symbol": "circle", "size": 9}),
        ("chosen", chosen, {"color": theme.DEFAULT_COLOUR, "symbol": "star", "size": 17}),
    ):
        theme.add_points(
            figure,
            [prices[at] for at in members],
            [effects[at] for at in members],
            [texts[at] for at in members],
            mode="markers+text",
            name=name,
            marker=marker,
            text=[plain(settings[at].name) if positions[at] else "" for at in members],
            textposition=[positions[at] or "top center" for at in members],
            textfont={"size": theme.LABEL_PX, "color": theme.INK},
        )
    # Plotly takes a line's price as it is even on a logarithmic axis, a text's as a logarithm.
    theme.mark_value(figure, bound, theme.INK, "dash")
    figure.add_annotation(
        x=bound_x,
        y=1,
        yref="paper",
        yanchor="bottom",
        text=f"bound {number(bound)}",
        showarrow=False,
        font={"size": theme.LABEL_PX},
    )
    scale = ", log scale" if is_log else ""
    figure.update_xaxes(
        type="linear",
        range=x_range,
        title_text=f"price: KL on default answers (nats per token{scale})",
    )
    if is_log:
        figure.update_xaxes(theme.log_axis(prices))
    figure.update_yaxes(range=y_range, title_text="effect: rise of role answers (gap units)")
    return figure


def _describe(name: str, price: float, effect: float, firing: float, fate: str = "") -> str:
    return hover_box(
        name,
        f"price {number(price)} nats per token",
        f"effect {fixed(effect)} gap units",
        f"{percent(firing)} of slots moved",
        fate,
    )


def draw_screening(sweep: Sweep) -> go.Figure:
    """Every setting that was tried, by price and effect: those kept in blue, pruned ones faint."""
    figure = theme.new_figure(_SCATTER_PX, margin=_SWEEP_MARGIN)
    styles: dict[str, dict[str, Any]] = {
        fate: {"color": colour, "symbol": symbol, "size": 8, "opacity": _FAINT}
        for fate, (colour, symbol) in _PRUNED.items()
    }
    styles["kept"] = {"color": theme.DEFAULT_COLOUR, "symbol": "circle", "size": 10}
    prices: list[float] = []
    for fate, marker in styles.items():
        x, y, texts = [], [], []
        for setting in sweep.screened:
            price, effect, firing = setting.price, setting.effect, setting.realised_firing
            if setting.fate != fate or price is None or not price.value > 0:
                continue
            assert effect is not None
            assert firing is not None
            why = f"{fate}: {setting.why}" if setting.why else fate
            x.append(price.value)
            y.append(effect.value)
            texts.append(_describe(setting.name, price.value, effect.value, firing, why))
        name = "kept and measured" if fate == "kept" else fate
        theme.add_points(figure, x, y, texts, name=f"{name} ({len(x)})", marker=marker)
        prices += x
    figure.update_xaxes(title_text="price: KL on default answers (nats per token, log scale)")
    figure.update_xaxes(theme.log_axis(prices))
    figure.update_yaxes(title_text="effect: rise of role answers (gap units)")
    return figure


def draw_frontier(sweep: Sweep) -> go.Figure:
    """Change in harm against change in capability, with 95 % intervals.

    Points are what the choosing items say; of the recommended setting also what the items held
    back say. Shares are drawn in percentage points.
    """
    figure = theme.new_figure(_SCATTER_PX, margin=_SWEEP_MARGIN)
    dotted = {"color": _FRONTIER_COLOUR, "width": 1.5, "dash": "dot"}
    _join(figure, sweep, [setting.choosing for setting in sweep.frontier], dotted)
    rest = [s for s in sweep.swept if not s.is_on_frontier]
    on_it = [s for s in sweep.frontier if s.name != sweep.recommended]
    for name, members, colour in (
        ("measured", rest, theme.ROLES_COLOUR),
        ("on the frontier", on_it, _FRONTIER_COLOUR),
    ):
        changes = {setting.name: setting.choosing for setting in members}
        _add_changes(figure, sweep, changes, name=f"{name} ({len(members)})", colour=colour)
    if (best := sweep.best) is not None:
        star: dict[str, Any] = {"colour": theme.DEFAULT_COLOUR, "size": 17}
        name = f"recommended: {plain(best.name)}"
        chosen = {best.name: best.choosing}
        _add_changes(figure, sweep, chosen, name=name, symbol="star", **star)
        if best.deciding is not None:
            dotted = {"color": theme.DEFAULT_COLOUR, "width": 1, "dash": "dot"}
            _join(figure, sweep, [best.choosing, best.deciding], dotted)
            name, held_back = "the same by the items held back", {best.name: best.deciding}
            _add_changes(figure, sweep, held_back, name=name, symbol="star-open", **star)
    cross = {"color": theme.INK, "symbol": "cross-thin", "size": 12, "line": {"width": 2}}
    theme.add_points(figure, [0], [0], [], name="unsteered", marker=cross, hoverinfo="name")
    harm, capability = _unit_name(sweep.harm.unit), _unit_name(sweep.capability.unit)
    figure.update_xaxes(title_text=f"change in {sweep.harm.name} ({harm}); left is better")
    figure.update_yaxes(
        title_text=f"change in {sweep.capability.name} ({capability}); up is better"
    )
    return figure


def _join(figure: go.Figure, sweep: Sweep, changes: Sequence[Change], line: dict[str, Any]) -> None:
    across, up = _scale(sweep.harm.unit), _scale(sweep.capability.unit)
    x = [across * change.harm.value for change in changes]
    y = [up * change.capability.value for change in changes]
    figure.add_trace(theme.line(x, y, line=line))


def _add_changes(
    figure: go.Figure,
    sweep: Sweep,
    changes: Mapping[str, Change],
    *,
    name: str,
    colour: str,
    symbol: str = "circle",
    size: int = 9,
) -> None:
    """Adds a point with both its intervals for each change, by the names of their settings."""
    harms = [change.harm for change in changes.values()]
    capabilities = [change.capability for change in changes.values()]
    harm_unit, capability_unit = sweep.harm.unit, sweep.capability.unit
    across, up = _scale(harm_unit), _scale(capability_unit)
    texts = [
        hover_box(
            setting,
            f"harm {change.harm.text(form_of(harm_unit))} {_unit_name(harm_unit)}",
            f"capability {change.capability.text(form_of(capability_unit))} "
            f"{_unit_name(capability_unit)}",
        )
        for setting, change in changes.items()
    ]
    theme.add_points(
        figure,
        [across * harm.value for harm in harms],
        [up * capability.value for capability in capabilities],
        texts,
        error_x=theme.error_bars(harms, colour, across, thickness=1, width=3),
        error_y=theme.error_bars(capabilities, colour, up, thickness=1, width=3),
        name=name,
        marker={"color": colour, "symbol": symbol, "size": size},
    )


def _scale(unit: Unit) -> float:
    return 100.0 if unit == "share" else 1.0


def _unit_name(unit: Unit) -> str:
    return "percentage points" if unit == "share" else unit
