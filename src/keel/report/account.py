"""Gathers the sections of a report, in their order. Knows nothing of how they are rendered."""

from __future__ import annotations

from keel.report.content import Account
from keel.report.inputs import ComparisonInputs, ReportInputs
from keel.report.sections import (
    comparison_sections,
    drift_sections,
    evaluation_sections,
    floor_sections,
    key_figures,
    persona_sections,
    run_section,
    sweep_sections,
    trait_sections,
)


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
