"""The sections of a report in their order; knows nothing of how they are rendered.

To add a section, write a function that returns it in the module of its subject, and call it here.
"""

from keel.report.content import Account
from keel.report.inputs import ComparisonInputs, ReportInputs
from keel.report.sections.comparison import comparison_sections
from keel.report.sections.drift import drift_sections
from keel.report.sections.evaluation import evaluation_sections
from keel.report.sections.floors import floor_sections, sweep_sections
from keel.report.sections.personas import persona_sections, trait_sections
from keel.report.sections.run import key_figures, run_section

__all__ = ["comparison_account", "report_account"]


def report_account(inputs: ReportInputs) -> Account:
    """All that is said of one run, or of those of its results that are given."""
    return Account(
        page_kind="Keel report",
        title=inputs.title,
        facts=inputs.head,
        date=inputs.date,
        key_figures=key_figures(inputs),
        warnings=inputs.all_warnings,
        sections=(
            *persona_sections(inputs),
            *trait_sections(inputs),
            *floor_sections(inputs),
            *sweep_sections(inputs),
            *drift_sections(inputs),
            *evaluation_sections(inputs),
            run_section(inputs),
        ),
    )


def comparison_account(inputs: ComparisonInputs) -> Account:
    """All that is said of several runs side by side: a section per pair."""
    return Account(
        page_kind="Keel comparison",
        title=inputs.title,
        facts=inputs.head,
        date=inputs.date,
        warnings=inputs.all_warnings,
        sections=comparison_sections(inputs),
    )
