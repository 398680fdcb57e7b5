"""Renders results as HTML, Markdown or terminal output. Knows nothing of run folders or engines.

inputs ─ sections (words, tables, pictures to draw) ─ account ─┬─ documents  HTML and Markdown
                                                               └─ terminal   pictures of characters
"""

from keel.report.content import Account, Section, Table
from keel.report.documents import render_html, render_markdown
from keel.report.figure_files import write_figures
from keel.report.inputs import UNTRAINED_AUC, ComparisonInputs, ReportInputs, rank_roles
from keel.report.sections import case_account, comparison_account, report_account
from keel.report.terminal import render_terminal
from keel.report.textplot import draw_drift, draw_needle, draw_replay, draw_sparkline, draw_turn
from keel.report.trackers import TRACKERS, TrackedRun, send_to_tracker, tracker

__all__ = [
    "TRACKERS",
    "UNTRAINED_AUC",
    "Account",
    "ComparisonInputs",
    "ReportInputs",
    "Section",
    "Table",
    "TrackedRun",
    "case_account",
    "comparison_account",
    "draw_drift",
    "draw_needle",
    "draw_replay",
    "draw_sparkline",
    "draw_turn",
    "rank_roles",
    "render_html",
    "render_markdown",
    "render_terminal",
    "report_account",
    "send_to_tracker",
    "tracker",
    "write_figures",
]
