"""The results that a report shows, checked before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

from keel.errors import NotFiniteError, UsageError
from keel.types import (
    AssistantAxis,
    Calibration,
    DriftReading,
    EvalResult,
    ModelIdentity,
    PersonaMap,
    Replay,
    RunComparison,
    Sweep,
    TraitMap,
)


@dataclass(frozen=True)
class ReportInputs:
    """The results of a run; what is missing becomes a note that names its command."""

    title: str
    identity: ModelIdentity | None = None
    """None where the results of one command are shown rather than a run."""
    persona_map: PersonaMap | None = None
    axis: AssistantAxis | None = None
    """What paths of conversations are measured by; None for the map's own."""
    trait_map: TraitMap | None = None
    calibration: Calibration | None = None
    sweep: Sweep | None = None
    drift: tuple[DriftReading, ...] = ()
    replays: tuple[Replay, ...] = ()
    evaluations: dict[str, EvalResult] = field(default_factory=dict)
    """Name of an evaluation -> its result."""
    samples: dict[str, str] = field(default_factory=dict)
    """One sample answer per role, per side of a trait (`trait:stoic/+`), and one of `default`."""
    role_kinds: dict[str, str] = field(default_factory=dict)
    """Role -> kind of role; roles of one kind share a colour."""
    facts: tuple[tuple[str, str], ...] = ()
    """Name and value of what was run: model, revision, sampling, seeds, versions, date."""
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_map(self.persona_map)
        _check_calibration(self.calibration)

    @property
    def head(self) -> tuple[str, ...]:
        """The model, in a few words each."""
        model = self.identity
        if model is None:
            return ()
        revision = (f"revision {model.revision[:12]}",) if model.revision else ()
        return (model.model_id, *revision, f"{model.layers} layers × {model.hidden_size}")

    @property
    def date(self) -> str:
        """The fact called `date`; empty where there is none."""
        return next((value for name, value in self.facts if name.lower() == "date"), "")

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """The warnings of the run and of its parts, each once."""
        parts = (self.persona_map, self.trait_map, self.calibration, self.sweep)
        warnings = [text for part in parts if part is not None for text in part.warnings]
        return tuple(dict.fromkeys([*self.warnings, *warnings]))

    def kind_of(self, role: str) -> str:
        """The role's kind; plain `role` where none was given."""
        return self.role_kinds.get(role, "role")


@dataclass(frozen=True)
class ComparisonInputs:
    """Comparisons of several runs, pair by pair."""

    title: str
    head: tuple[str, ...]
    """The models, in a few words each."""
    comparisons: tuple[RunComparison, ...]
    date: str = ""

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """The warnings of every pair, each once."""
        return tuple(dict.fromkeys(text for pair in self.comparisons for text in pair.warnings))


def _check_map(persona_map: PersonaMap | None) -> None:
    if persona_map is None:
        return
    layer = persona_map.axis.layer
    if layer not in {quality.layer for quality in persona_map.quality}:
        raise UsageError(
            f"no quality was measured at the axis' layer {layer}; expected one entry per layer"
        )
    gap = float(persona_map.axis.gap[layer])
    if not gap > 0:
        raise NotFiniteError(
            f"the gap between default and roles is {gap:g} at layer {layer}, expected above 0: "
            "nothing can be expressed in gap units; extract again with more roles or another layer"
        )


def _check_calibration(calibration: Calibration | None) -> None:
    if calibration is None:
        return
    names = [setting.name for setting in calibration.settings]
    if calibration.chosen not in names:
        raise UsageError(
            f"chosen setting {calibration.chosen!r} is not among the settings priced "
            f"({', '.join(names) or 'none'}); calibrate again"
        )
