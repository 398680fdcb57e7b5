"""The sections of a report in their order; knows nothing of how they are rendered.

To add a section, write a function that returns it in the module of its subject, and call it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from keel.report.content import Account, KeyFigure, Section, Table
from keel.report.inputs import (
    ComparisonInputs,
    ReportInputs,
    quality_at,
    rank_roles,
)
from keel.report.sections.comparison import comparison_sections
from keel.report.sections.drift import case_section, conversation_sections, drift_sections
from keel.report.sections.evaluation import evaluation_sections
from keel.report.sections.floors import (
    effect_words,
    floor_sections,
    price_bounds,
    price_words,
    sweep_sections,
)
from keel.report.sections.personas import persona_sections, trait_sections
from keel.report.sections.studies import study_sections
from keel.types import Replay
from keel.words import counted, fixed, listed, number, percent

__all__ = ["case_account", "comparison_account", "report_account"]

CITATION = (
    "Lu et al. 2026, The Assistant Axis, arXiv:2601.10387, for the method; "
    "Keel, in the version given below, for the numbers."
)
_DAY = len("2026-01-31")
GLOSSARY = (
    ("role", "A character that a system prompt asks the model to play."),
    ("default", "The model as itself: the same questions with no role set."),
    ("Assistant Axis", "The direction from the mean of the roles to the default, at one layer."),
    ("projection", "How far an activation reaches along the axis; more is more Assistant-like."),
    ("gap unit", "The projection rescaled: 0 is the mean of the roles, 1 that of the default."),
    ("AUC", "The chance that a default answer projects above an answer in a role; 0.5 is luck."),
    ("floor", "The lowest projection allowed at a layer; what lies under it is raised to it."),
    ("firing rate", "The share of (token, layer) slots that the floors move."),
)


def report_account(inputs: ReportInputs) -> Account:
    """All that is said of one run, or of those of its results that are given.

    First what capping does and what it costs, then the statistics behind it.
    """
    space, ranks, quality = persona_sections(inputs)
    projections, firing, prices = floor_sections(inputs)
    return Account(
        page_kind="Keel report",
        title=_title(inputs),
        facts=inputs.head,
        date=inputs.date,
        basis=_basis(inputs),
        lead=tuple(_lead(inputs)),
        key_figures=_key_figures(inputs),
        key_figures_before=quality.id,
        warnings=inputs.all_warnings,
        glossary=GLOSSARY,
        sections=(
            *conversation_sections(inputs),
            ranks,
            space,
            prices,
            quality,
            *trait_sections(inputs),
            projections,
            firing,
            *sweep_sections(inputs),
            *drift_sections(inputs),
            *study_sections(inputs),
            *evaluation_sections(inputs),
            _run_section(inputs),
        ),
    )


def _title(inputs: ReportInputs) -> str:
    """The run's name, with its model and the day on which it was made."""
    if inputs.identity is None:
        return inputs.title
    model = PurePath(inputs.identity.model_id).name
    named = inputs.title if model in inputs.title else f"{model}: {inputs.title}"
    return ", ".join(filter(None, (named, inputs.date[:_DAY])))


def _basis(inputs: ReportInputs) -> str:
    """The model that the figures are of, and the seed that drew its answers."""
    model = "" if inputs.identity is None else PurePath(inputs.identity.model_id).name
    seed = next((value for name, value in inputs.facts if name == "seed"), "")
    return ", ".join(filter(None, (model, f"seed {seed}" if seed else "")))


def _lead(inputs: ReportInputs) -> Iterator[str]:
    """What the page is, what was found, and what capping does, a sentence each."""
    if inputs.identity is None:
        return
    yield (
        f"How far do the answers of {inputs.identity.model_id} lie from those of a role that it "
        "plays, and what does it change to hold it near its usual self? Measured along the "
        "Assistant Axis, by the method of Lu et al. 2026 (arXiv:2601.10387)."
    )
    if (persona_map := inputs.persona_map) is not None:
        auc = quality_at(persona_map, persona_map.axis.layer).auc
        untrained = " to ".join(map(percent, inputs.untrained_aucs))
        names = [standing.name for standing in rank_roles(persona_map)]
        ends = f" Farthest out stands {names[0]}, nearest {names[-1]}." if len(names) > 1 else ""
        yield (
            f"After layer {persona_map.axis.layer}, an answer of the default projects above an "
            f"answer in a role in {percent(auc.value)} ({auc.bounds(percent)}) of pairs, where "
            f"models with random weights reach {untrained}.{ends}"
        )
    if (calibration := inputs.calibration) is not None:
        setting = calibration.setting
        price = price_words(setting)
        yield (
            f"Capped with `{setting.name}`, answers in a role rise by {effect_words(setting)} "
            f"of the gap between the two, and the default's own change by {price} nats a token."
        )


def case_account(inputs: ReportInputs, replay: Replay) -> Account:
    """All that is said of one conversation that was answered anew."""
    axis = inputs.axis if inputs.persona_map is None else inputs.persona_map.axis
    return Account(
        page_kind="Keel case",
        title=replay.conversation_id,
        facts=inputs.head,
        date=inputs.date,
        basis=_basis(inputs),
        warnings=inputs.all_warnings,
        glossary=GLOSSARY,
        sections=(case_section(replay, axis),),
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


def _key_figures(inputs: ReportInputs) -> tuple[KeyFigure, ...]:
    """The run in a row of numbers: those that its parts allow."""
    figures = []
    if (persona_map := inputs.persona_map) is not None:
        layer = persona_map.axis.layer
        at = quality_at(persona_map, layer)
        low, high = inputs.untrained_aucs
        null = inputs.untrained
        reached_untrained = (
            "" if null is None else f"; untrained {' to '.join(map(fixed, null.d_prime_range))}"
        )
        reached, roles = fixed(at.cos_pc1_null), counted(len(persona_map.vectors), "role")
        if at.is_along_pc1(len(persona_map.vectors)) is None:
            reached += "; no verdict"
        figures += [
            KeyFigure(
                f"Held-out AUC, layer {layer}",
                fixed(at.auc.value),
                f"{at.auc.bounds()}; untrained {fixed(low)} to {fixed(high)}",
            ),
            KeyFigure(
                "Held-out d′", fixed(at.d_prime.value), at.d_prime.bounds() + reached_untrained
            ),
            KeyFigure(
                "|cos(axis, PC1)|",
                fixed(at.cos_pc1.value),
                f"{at.cos_pc1.bounds()}; of roles, 1 in 20 {reached}",
            ),
            KeyFigure("Default's percentile", percent(at.default_percentile), f"among {roles}"),
        ]
    if (calibration := inputs.calibration) is not None:
        setting = calibration.setting
        nominal = setting.nominal_firing.values()
        expected = sum(nominal) / len(nominal) if nominal else float("nan")
        bound = f"{price_bounds(setting)}; nats per token, bound {number(calibration.price_bound)}"
        figures += [
            KeyFigure("Chosen setting", setting.name, counted(len(setting.floors), "floor")),
            KeyFigure("Firing rate", percent(setting.firing_rate), f"nominal {percent(expected)}"),
            KeyFigure("Price (KL)", number(setting.kl_default), bound),
        ]
    return tuple(figures)


def _run_section(inputs: ReportInputs) -> Section:
    """Facts of the run, role counts, and how to cite."""
    words, facts = [f"How to cite: {CITATION}"], inputs.facts
    if (identity := inputs.identity) is not None:
        stated = {name.lower() for name, _ in facts}
        known = (
            ("model", identity.model_id),
            ("revision", identity.revision),
            ("layers × hidden size", f"{identity.layers} × {identity.hidden_size}"),
            ("dtype", identity.dtype),
            ("weights hash", identity.weights_hash),
            ("template hash", identity.template_hash),
        )
        added = [(name, value) for name, value in known if value and name not in stated]
        facts = (*added, *facts)
    tables = [Table("Facts of the run", ("what", "value"), facts)]
    if (persona_map := inputs.persona_map) is not None:
        counts = [vector.count for vector in persona_map.vectors]
        spread = f" from {min(counts):,} to {max(counts):,} rollouts each" if counts else ""
        dropped = [f"{role} ({count})" for role, count in sorted(persona_map.dropped.items())]
        lost = f"Dropped for want of rollouts, with how many they had: {listed(dropped)}."
        words.insert(
            0,
            f"{counted(len(counts), 'role vector')}{spread}; "
            f"{counted(persona_map.default_count, 'rollout')} of the default. "
            f"{lost if dropped else 'No role was dropped.'}",
        )
        tables.append(
            Table.of(
                "All roles, the most Assistant-like first",
                reversed(rank_roles(persona_map)),
                {
                    "role": lambda standing: standing.role,
                    "kind": lambda standing: inputs.kind_of(standing.role),
                    "label": lambda standing: standing.label,
                    "rollouts": lambda standing: str(standing.count),
                    "gap units": lambda standing: fixed(standing.gaps),
                    "raw projection": lambda standing: number(standing.projection, 4),
                },
                is_folded=True,
            )
        )
    return Section("run", "The run", tuple(words), tables=tuple(tables), is_result=False)
