"""A run's results as one HTML page, or as Markdown. Knows nothing of run folders or models.

inputs ─ sections (words, tables, pictures to draw) ─┬─ page      HTML, Plotly inlined once
                                                     └─ markdown  the same without pictures
"""

from keel.report.inputs import ComparisonInputs, ReportInputs
from keel.report.markdown import render_markdown
from keel.report.page import render_comparison, render_report

__all__ = [
    "ComparisonInputs",
    "ReportInputs",
    "render_comparison",
    "render_markdown",
    "render_report",
]
