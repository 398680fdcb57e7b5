"""Numbers that a report derives from its inputs. Knows nothing of how they are shown."""

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


def rank_roles(found: PersonaMap) -> tuple[RoleStanding, ...]:
    """Every role vector's place on the axis, the least Assistant-like first."""
    axis = found.axis
    direction = axis.direction[axis.layer]
    standings = []
    for vector in found.vectors:
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
        """Mean of the roles' places, each role counting once."""
        return sum(role.gaps for role in self.roles) / len(self.roles)


def rank_kinds(
    standings: Sequence[RoleStanding], kinds: Mapping[str, str]
) -> tuple[KindStanding, ...]:
    """Kinds with two roles or more, the most Assistant-like first; `kinds` is role -> kind."""
    by_kind: dict[str, list[RoleStanding]] = {}
    for standing in standings:
        by_kind.setdefault(kinds[standing.role], []).append(standing)
    found = [KindStanding(kind, tuple(roles)) for kind, roles in by_kind.items() if len(roles) > 1]
    return tuple(sorted(found, key=lambda one: (-one.mean_gaps, one.kind)))


def quality_at(found: PersonaMap, layer: int) -> LayerQuality:
    """What was measured at one layer."""
    return next(quality for quality in found.quality if quality.layer == layer)


def shares_under(layer: LayerCalibration, value: float) -> tuple[float, float]:
    """Shares (0 to 1) of default and of role tokens whose projection lies under a value.

    Read off the histograms; within a bin, tokens are taken to lie evenly.
    """
    return (
        _share_under(layer.bin_edges, layer.default_share, value),
        _share_under(layer.bin_edges, layer.role_share, value),
    )


def floor_in_gaps(axis: AssistantAxis | None, floor: float | None, layer: int) -> float | None:
    """A raw floor in gap units; None where there is no floor, or no axis to measure it by."""
    if axis is None or floor is None or not float(axis.gap[layer]) > 0:
        return None
    return axis.in_gaps(floor, layer)


def turns_under(turns: Iterable[TurnReading]) -> int:
    """How many turns lie below the floor."""
    return sum(turn.is_below_floor is True for turn in turns)


def _share_under(edges: Sequence[float], shares: Sequence[float], value: float) -> float:
    total = 0.0
    for low, high, share in zip(edges, edges[1:], shares, strict=False):
        reached = (value - low) / (high - low) if high > low else float(value > low)
        total += share * min(max(reached, 0.0), 1.0)
    return total
