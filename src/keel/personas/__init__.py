"""Rollouts' activations and judgements -> vectors, persona space, the Assistant Axis."""

from keel.personas.mapping import map_personas
from keel.personas.settings import MapSettings
from keel.personas.space import fit_space

__all__ = ["MapSettings", "fit_space", "map_personas"]
