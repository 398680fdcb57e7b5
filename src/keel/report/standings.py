"""Where roles, tokens and turns stand on the axis. Knows nothing of how that is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from keel.geometry import project
from keel.types import AssistantAxis, LayerCalibration, LayerQuality, PersonaMap, TurnReading


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

    @property
    def name(self) -> str:
        """The role, with its label where that says more than the role."""
        return f"{self.role} (somewhat)" if self.label == "somewhat" else self.role


def rank_roles(persona_map: PersonaMap) -> tuple[RoleStanding, ...]:
    """Every role vector's projection on the axis, the least Assistant-like first."""
    axis = persona_map.axis
    direction = axis.direction[axis.layer]
    standings = []
    for vector in persona_map.vectors:
        raw = float(project(vector.vector_LD[axis.layer], direction))
        gaps = axis.in_gaps(raw, axis.layer)
        standings.append(RoleStanding(vector.role, vector.label, vector.count, raw, gaps))
    return tuple(sorted(standings, key=lambda standing: (standing.gaps, standing.name)))


@dataclass(frozen=True)
class KindStanding:
    """Where the roles of one kind stand on the axis."""

    kind: str
    roles: tuple[RoleStanding, ...]
    """The least Assistant-like first; never empty."""

    @property
    def mean_gaps(self) -> float:
        """Mean of the roles' projections in gap units, each role counting once."""
        return sum(role.gaps for role in self.roles) / len(self.roles)


def rank_kinds(
    standings: Sequence[RoleStanding], kinds: Mapping[str, str]
) -> tuple[KindStanding, ...]:
    """Kinds with two roles or more, the most Assistant-like first; `kinds` is role -> kind."""
    by_kind: dict[str, list[RoleStanding]] = {}
    for standing in standings:
        by_kind.setdefault(kinds[standing.role], []).append(standing)
    kept = [KindStanding(kind, tuple(roles)) for kind, roles in by_kind.items() if len(roles) > 1]
    return tuple(sorted(kept, key=lambda standing: (-standing.mean_gaps, standing.kind)))


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


def turns_under(turns: Iterable[TurnReading]) -> int:
    """How many turns lie below the floor."""
    return sum(turn.is_below_floor is True for turn in turns)
