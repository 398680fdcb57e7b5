"""A run's results as one HTML page, or as Markdown. Knows nothing of run folders or models.

inputs ─ sections (words, tables, pictures to draw) ─┬─ page      HTML, Plotly inlined once
                                                     └─ markdown  the same without pictures
"""

from keel.report.inputs import ReportInputs
from keel.report.markdown import render_markdown
from keel.report.page import render_report

__all__ = ["ReportInputs", "render_markdown", "render_report"]
