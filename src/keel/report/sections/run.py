"""Section on the run itself: facts, counts, how to cite, words."""

from __future__ import annotations

from keel.report.content import Section, Table
from keel.report.findings import rank_roles
from keel.report.inputs import ReportInputs
from keel.types import PersonaMap
from keel.words import counted, fixed, listed, number

CITATION = (
    "Lu et al. 2026, The Assistant Axis, arXiv:2601.10387, for the method; "
    "Keel, in the version told below, for the numbers."
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


def run_section(inputs: ReportInputs) -> Section:
    """Facts of the run, role counts, how to cite, and what the words mean."""
    tables = [Table("Facts of the run", ("what", "value"), (*_identity(inputs), *inputs.facts))]
    words = [f"How to cite: {CITATION}"]
    if inputs.persona_map is not None:
        words.insert(0, _say_counts(inputs.persona_map))
        tables.append(_role_table(inputs, inputs.persona_map))
    tables.append(Table("What the words mean", ("word", "meaning"), GLOSSARY))
    return Section("run", "The run", tuple(words), tables=tuple(tables))


def _identity(inputs: ReportInputs) -> tuple[tuple[str, str], ...]:
    """What the model's identity says that the facts do not."""
    identity, told = inputs.identity, {name.lower() for name, _ in inputs.facts}
    known = (
        ("model", identity.model_id),
        ("revision", identity.revision),
        ("layers × hidden size", f"{identity.layers} × {identity.hidden_size}"),
        ("dtype", identity.dtype),
        ("weights hash", identity.weights_hash),
        ("template hash", identity.template_hash),
    )
    return tuple((name, value) for name, value in known if value and name not in told)


def _say_counts(found: PersonaMap) -> str:
    counts = [vector.count for vector in found.vectors]
    words = f"{counted(len(counts), 'role vector')}"
    if counts:
        words += f" from {min(counts):,} to {max(counts):,} rollouts each"
    words += f"; {counted(found.default_count, 'rollout')} of the default."
    if not found.dropped:
        return f"{words} No role was dropped."
    told = listed([f"{role} ({count})" for role, count in sorted(found.dropped.items())])
    return f"{words} Dropped for want of rollouts, with how many they had: {told}."


def _role_table(inputs: ReportInputs, found: PersonaMap) -> Table:
    header = ("role", "kind", "label", "rollouts", "gap units", "raw projection")
    rows = tuple(
        (
            standing.role,
            inputs.kind_of(standing.role),
            standing.label,
            str(standing.count),
            fixed(standing.gaps),
            number(standing.projection, 4),
        )
        for standing in reversed(rank_roles(found))
    )
    return Table("All roles, the most Assistant-like first", header, rows, is_folded=True)
