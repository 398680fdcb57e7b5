"""The sections of a report. Knows nothing of HTML, Markdown or terminals."""

from keel.report.sections.comparison import comparison_sections
from keel.report.sections.drift import drift_sections
from keel.report.sections.evaluation import evaluation_sections
from keel.report.sections.floors import floor_sections, sweep_sections
from keel.report.sections.personas import persona_sections, trait_sections
from keel.report.sections.run import key_figures, run_section

__all__ = [
    "comparison_sections",
    "drift_sections",
    "evaluation_sections",
    "floor_sections",
    "key_figures",
    "persona_sections",
    "run_section",
    "sweep_sections",
    "trait_sections",
]
