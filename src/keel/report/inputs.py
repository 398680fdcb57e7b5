"""The results that a report shows, checked, and where their roles and floors lie on the axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np

from keel.arrays import as_numpy
from keel.errors import NotFiniteError, UsageError
from keel.statistics import Clusters, mean_interval
from keel.types import (
    SOMEWHAT,
    AssistantAxis,
    Calibration,
    DriftReading,
    DriftStudy,
    EvalResult,
    Interval,
    LayerCalibration,
    LayerQuality,
    ModelIdentity,
    PersonaMap,
    Replay,
    RunComparison,
    StudiedConversation,
    Sweep,
    TraitMap,
    UntrainedNull,
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
    untrained: UntrainedNull | None = None
    """What the AUC is held against; None for the range that was measured for the docs."""
    cut_share: float | None = None
    """Share (0 to 1) of the answers behind the maps that were cut at the token limit."""
    calibration: Calibration | None = None
    sweep: Sweep | None = None
    drift: tuple[DriftReading, ...] = ()
    replays: tuple[Replay, ...] = ()
    evaluations: dict[str, EvalResult] = field(default_factory=dict)
    """Name of an evaluation -> its result."""
    studies: dict[str, DriftStudy] = field(default_factory=dict)
    """Name of a drift study -> its result."""
    transcripts: dict[str, tuple[StudiedConversation, ...]] = field(default_factory=dict)
    """Name of a drift study -> those of its conversations that are shown whole."""
    samples: dict[str, str] = field(default_factory=dict)
    """One sample answer per role, per side of a trait (`trait:stoic/+`), and one of `default`."""
    role_kinds: dict[str, str] = field(default_factory=dict)
    """Role -> kind of role; roles of one kind share a colour."""
    facts: tuple[tuple[str, str], ...] = ()
    """Name and value of what was run: model, revision, sampling, seeds, versions, date."""
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (persona_map := self.persona_map) is not None:
            layer = persona_map.axis.layer
            if layer not in {quality.layer for quality in persona_map.quality}:
                raise UsageError(
                    f"no quality was measured at the axis' layer {layer}; "
                    "expected one entry per layer"
                )
            gap = float(persona_map.axis.gap[layer])
            if not gap > 0:
                raise NotFiniteError(
                    f"the gap between default and roles is {gap:g} at layer {layer}, expected "
                    "above 0: nothing can be expressed in gap units; extract again with more "
                    "roles or another layer"
                )
        if (calibration := self.calibration) is not None:
            names = [setting.name for setting in calibration.settings]
            if calibration.chosen not in names:
                raise UsageError(
                    f"chosen setting {calibration.chosen!r} is not among the settings priced "
                    f"({', '.join(names) or 'none'}); calibrate again"
                )

    @property
    def untrained_aucs(self) -> tuple[float, float]:
        """The range of the AUC of models with random weights: this run's own, or the docs'."""
        return UNTRAINED_AUC if self.untrained is None else self.untrained.auc_range

    @property
    def head(self) -> tuple[str, ...]:
        """Short facts on the model, for the head of the page."""
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


@dataclass(frozen=True)
class RoleStanding:
    """Where one role vector stands on the axis, at the axis' layer."""

    role: str
    label: str
    count: int
    projection: float
    """Raw."""
    gaps: float
    """0 role mean, 1 default mean."""
    interval: Interval | None = None
    """The same with its 95 % interval over questions; None where the map does not know it."""
    ranks: tuple[int, int] | None = None
    """Ranks that it may have, the nearest to the Assistant being 1."""

    @property
    def name(self) -> str:
        """The role, with its label where that says more than the role."""
        return self.role.removesuffix(SOMEWHAT) + SOMEWHAT * (self.label == "somewhat")


def rank_roles(persona_map: PersonaMap) -> tuple[RoleStanding, ...]:
    """Every role vector's projection on the axis, the least Assistant-like first."""
    axis = persona_map.axis
    along_D = as_numpy(axis.vector[axis.layer])
    length = float(np.linalg.norm(along_D)) or 1.0
    standings = []
    for vector in persona_map.vectors:
        raw = float(as_numpy(vector.vector_LD[axis.layer]) @ along_D) / length
        gaps = axis.in_gaps(raw, axis.layer)
        at = RoleStanding(vector.role, vector.label, vector.count, raw, gaps)
        standings.append(replace(at, interval=persona_map.standings.get(at.name)))
    ranked = sorted(standings, key=lambda standing: (standing.gaps, standing.name))
    known = [standing.interval for standing in ranked if standing.interval is not None]
    if len(known) < len(ranked):
        return tuple(ranked)
    return tuple(replace(at, ranks=_ranks(known, row)) for row, at in enumerate(ranked))


def _ranks(intervals: Sequence[Interval], row: int) -> tuple[int, int]:
    """Ranks that a role may have: those above and below it that differ from it beyond chance.

    Intervals for ranks from pairwise differences (Mogstad, Romano, Shaikh and Wilhelm 2024, Review
    of Economic Studies 91:476), here with Bonferroni's correction for all others.
    """
    own = intervals[row]
    normal = NormalDist()
    wider = normal.inv_cdf(1 - 0.025 / max(1, len(intervals) - 1)) / normal.inv_cdf(0.975)

    def differs(other: Interval) -> bool:
        reach = ((own.high - own.low) ** 2 + (other.high - other.low) ** 2) ** 0.5 / 2
        return bool(abs(other.value - own.value) > wider * reach)

    higher = sum(other.value > own.value and differs(other) for other in intervals)
    lower = sum(other.value < own.value and differs(other) for other in intervals)
    return 1 + higher, len(intervals) - lower


UNTRAINED_AUC = (0.49, 0.95)
"""Least and greatest held-out AUC of models with random weights, measured as docs/statistics.md
says: beside it, an AUC tells a bad axis from a usable one, and not a learnt one from a trace."""


@dataclass(frozen=True)
class KindStanding:
    """Where the roles of one kind stand on the axis."""

    kind: str
    roles: tuple[RoleStanding, ...]
    """The least Assistant-like first; never empty."""

    @property
    def mean(self) -> Interval:
        """Mean of the roles' projections in gap units, each role counting once.

        Its interval is Student's, over roles: about other roles of this kind.
        """
        gaps_R = np.array([role.gaps for role in self.roles])
        return mean_interval(gaps_R, Clusters({}, {}, len(gaps_R)))


def rank_kinds(
    standings: Sequence[RoleStanding], kinds: Mapping[str, str]
) -> tuple[KindStanding, ...]:
    """Kinds with two roles or more, the most Assistant-like first; `kinds` is role -> kind."""
    by_kind: dict[str, list[RoleStanding]] = {}
    for standing in standings:
        by_kind.setdefault(kinds.get(standing.role, "role"), []).append(standing)
    kept = [KindStanding(kind, tuple(roles)) for kind, roles in by_kind.items() if len(roles) > 1]
    return tuple(sorted(kept, key=lambda standing: (-standing.mean.value, standing.kind)))


def quality_at(persona_map: PersonaMap, layer: int) -> LayerQuality:
    """The axis' quality at one layer."""
    return next(quality for quality in persona_map.quality if quality.layer == layer)


def shares_under(layer: LayerCalibration, value: float) -> tuple[float, float]:
    """Shares (0 to 1) of default and of role tokens whose projection lies under a value.

    Read off the histograms; within a bin, tokens are taken to lie evenly.
    """
    default = roles = 0.0
    for low, high, default_share, role_share in zip(
        layer.bin_edges, layer.bin_edges[1:], layer.default_share, layer.role_share, strict=False
    ):
        reached = (value - low) / (high - low) if high > low else float(value > low)
        covered = min(max(reached, 0.0), 1.0)
        default, roles = default + covered * default_share, roles + covered * role_share
    return default, roles


def floor_in_gaps(axis: AssistantAxis | None, floor: float | None, layer: int) -> float | None:
    """A raw floor in gap units; None where there is no floor, or no axis to measure it by."""
    if axis is None or floor is None or not float(axis.gap[layer]) > 0:
        return None
    return axis.in_gaps(floor, layer)
