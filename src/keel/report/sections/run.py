"""The numbers at the top of a report, and the section on the run itself."""

from __future__ import annotations

from keel.report.content import KeyFigure, Section, Table
from keel.report.inputs import ReportInputs
from keel.report.standings import quality_at, rank_roles
from keel.types import Calibration, PersonaMap
from keel.words import counted, fixed, listed, number, percent

CITATION = (
    "Lu et al. 2026, The Assistant Axis, arXiv:2601.10387, for the method; "
    "Keel, in the version given below, for the numbers."
)
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


def key_figures(inputs: ReportInputs) -> tuple[KeyFigure, ...]:
    """The run in a row of numbers: those that its parts allow."""
    return (
        *(_map_figures(inputs.persona_map) if inputs.persona_map is not None else ()),
        *(_floor_figures(inputs.calibration) if inputs.calibration is not None else ()),
    )


def _map_figures(persona_map: PersonaMap) -> tuple[KeyFigure, ...]:
    layer = persona_map.axis.layer
    at = quality_at(persona_map, layer)
    roles = counted(len(persona_map.vectors), "role")
    return (
        KeyFigure(f"Held-out AUC, layer {layer}", fixed(at.auc.value), at.auc.bounds()),
        KeyFigure("Held-out d′", fixed(at.d_prime.value), at.d_prime.bounds()),
        KeyFigure("|cos(axis, PC1)|", fixed(at.cos_pc1.value), f"chance {fixed(at.cos_pc1_null)}"),
        KeyFigure("Default's percentile", percent(at.default_percentile), f"among {roles}"),
    )


def _floor_figures(calibration: Calibration) -> tuple[KeyFigure, ...]:
    setting = calibration.setting
    nominal = setting.nominal_firing.values()
    expected = sum(nominal) / len(nominal) if nominal else float("nan")
    bound = f"nats per token, bound {number(calibration.price_bound)}"
    return (
        KeyFigure("Chosen setting", setting.name, counted(len(setting.floors), "floor")),
        KeyFigure("Firing rate", percent(setting.firing_rate), f"nominal {percent(expected)}"),
        KeyFigure("Price (KL)", number(setting.kl_default), bound),
    )


def run_section(inputs: ReportInputs) -> Section:
    """Facts of the run, role counts, how to cite, and what the words mean."""
    tables = [Table("Facts of the run", ("what", "value"), (*_identity(inputs), *inputs.facts))]
    words = [f"How to cite: {CITATION}"]
    if inputs.persona_map is not None:
        words.insert(0, _say_counts(inputs.persona_map))
        tables.append(_role_table(inputs, inputs.persona_map))
    tables.append(Table("What the words mean", ("word", "meaning"), GLOSSARY))
    return Section("run", "The run", tuple(words), tables=tuple(tables), is_result=False)


def _identity(inputs: ReportInputs) -> tuple[tuple[str, str], ...]:
    """What the model's identity says that the facts do not."""
    identity, stated = inputs.identity, {name.lower() for name, _ in inputs.facts}
    if identity is None:
        return ()
    known = (
        ("model", identity.model_id),
        ("revision", identity.revision),
        ("layers × hidden size", f"{identity.layers} × {identity.hidden_size}"),
        ("dtype", identity.dtype),
        ("weights hash", identity.weights_hash),
        ("template hash", identity.template_hash),
    )
    return tuple((name, value) for name, value in known if value and name not in stated)


def _say_counts(persona_map: PersonaMap) -> str:
    counts = [vector.count for vector in persona_map.vectors]
    words = f"{counted(len(counts), 'role vector')}"
    if counts:
        words += f" from {min(counts):,} to {max(counts):,} rollouts each"
    words += f"; {counted(persona_map.default_count, 'rollout')} of the default."
    if not persona_map.dropped:
        return f"{words} No role was dropped."
    dropped = [f"{role} ({count})" for role, count in sorted(persona_map.dropped.items())]
    return f"{words} Dropped for want of rollouts, with how many they had: {listed(dropped)}."


def _role_table(inputs: ReportInputs, persona_map: PersonaMap) -> Table:
    return Table.of(
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
