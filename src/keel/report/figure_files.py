"""Writes an account's figures as files for a paper: SVG, PDF, and the CSV of what is drawn."""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keel.errors import MissingExtraError, StorageError, UsageError
from keel.report.content import Account

WIDTH_PX = 860
_COLUMNS = ("series", "x", "y", "x_low", "x_high", "y_low", "y_high", "label")


def write_figures(account: Account, folder: Path) -> tuple[Path, ...]:
    """Writes every figure as NUMBER-ID.csv, .svg and .pdf, and their captions as captions.md.

    A figure is drawn as the page shows it first; its CSV holds each point of each series, with the
    ends of its error bars. Tables and captions are written before the drawings. Returns all files.
    Raises UsageError for an account without figures, StorageError, and MissingExtraError where
    kaleido or a Chrome is not installed, which draw.
    """
    pictures = [picture for section in account.sections for picture in section.pictures]
    if not pictures:
        raise UsageError("the run has no figure yet; make its map first: keel extract MODEL -o RUN")
    figures = {f"{n:02d}-{picture.id}": picture.draw() for n, picture in enumerate(pictures, 1)}
    captions = [
        f"**Figure {n}.** {picture.caption} {picture.sample} ({account.basis})\n"
        for n, picture in enumerate(pictures, 1)
    ]
    written = [folder / "captions.md"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written[0].write_text("\n".join(captions), encoding="utf-8")
        for name, figure in figures.items():
            written.append(folder / f"{name}.csv")
            with written[-1].open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([_COLUMNS, *_rows(figure)])
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError(
            f"{folder} is a file or lies below one, expected a folder; name another: --figures DIR"
        ) from error
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error}; name another folder: --figures DIR"
        ) from error
    return (*written, *_draw(figures, folder))


def _rows(figure: Any) -> Iterator[tuple[Any, ...]]:
    """A row per point that the figure shows."""
    for number, trace in enumerate(figure.data, 1):
        is_ornament = trace.hoverinfo == "skip" and not (trace.name or trace.fill)
        if trace.visible is False or trace.x is None or trace.y is None or is_ornament:
            continue
        axis = figure.layout[f"yaxis{(trace.yaxis or 'y')[1:]}"]
        name = _plain(trace.name) or f"{_plain(axis.title.text)} (series {number})".strip()
        labels = _labels(trace)
        x_bounds, y_bounds = _bounds(trace.x, trace.error_x), _bounds(trace.y, trace.error_y)
        for index, (x, y) in enumerate(zip(trace.x, trace.y, strict=False)):
            if x is None or y is None:
                continue
            label = labels[index] if index < len(labels) else ""
            yield (name, x, y, *x_bounds[index], *y_bounds[index], label)


def _bounds(values: Sequence[Any], error: Any) -> list[tuple[Any, Any]]:
    """Both ends of each value's error bar; empty where there is none or it is infinite."""
    if error is None or error.array is None:
        return [("", "")] * len(values)
    above = list(error.array)
    below = above if error.arrayminus is None else list(error.arrayminus)
    return [
        (_end(value, low, -1), _end(value, high, 1))
        for value, low, high in zip(values, below, above, strict=True)
    ]


def _end(value: Any, distance: Any, sign: int) -> Any:
    return "" if value is None or distance is None else value + sign * distance


def _labels(trace: Any) -> list[str]:
    """What stands at each point or is said when it is pointed at."""
    said = trace.hovertext if trace.hovertext is not None else trace.text
    return [] if said is None or isinstance(said, str) else [_plain(text) for text in said]


def _plain(text: Any) -> str:
    return html.unescape(re.sub(r"<[^>]*>", " ", str(text or ""))).strip()


def _draw(figures: dict[str, Any], folder: Path) -> list[Path]:
    try:
        import kaleido
    except ImportError as error:
        raise MissingExtraError(
            f"the tables are in {folder}, but SVG and PDF are drawn by kaleido, which is not "
            "installed: pip install 'keel-llm[figures]'"
        ) from error
    drawings: list[dict[str, Any]] = []
    for name, figure in figures.items():
        # Buttons are of no use on paper; a white ground shows the same in every program.
        figure.update_layout(
            updatemenus=(), sliders=(), paper_bgcolor="white", plot_bgcolor="white"
        )
        size = {"width": WIDTH_PX, "height": figure.layout.height or WIDTH_PX // 2}
        drawings += [
            {"fig": figure, "path": folder / f"{name}.{kind}", "opts": {"format": kind, **size}}
            for kind in ("svg", "pdf")
        ]
    try:
        # Formulas are no part of the figures; without this they would be asked of the network.
        kaleido.write_fig_from_object_sync(drawings, kopts={"mathjax": False})
    except Exception as error:
        raise MissingExtraError(
            f"the tables are in {folder}, but no SVG or PDF was drawn: {error}; install Chrome or "
            "Chromium, or let kaleido_get_chrome do it"
        ) from error
    return [drawing["path"] for drawing in drawings]
