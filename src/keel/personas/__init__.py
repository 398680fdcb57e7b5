"""Rollouts' activations and judgements -> vectors, persona space and trait space, the axis."""

from keel.personas.axis import fit_space
from keel.personas.mapping import FEWEST_ROLES, map_personas
from keel.personas.traits import FEWEST_TRAITS, PairTest, differ_in_score, gain_together, map_traits
from keel.settings import MapSettings, TraitSettings

__all__ = [
    "FEWEST_ROLES",
    "FEWEST_TRAITS",
    "MapSettings",
    "PairTest",
    "TraitSettings",
    "differ_in_score",
    "fit_space",
    "gain_together",
    "map_personas",
    "map_traits",
]
