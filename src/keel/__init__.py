"""Keel keeps open-weight language models in character.

Map persona space, find the Assistant Axis, watch drift, hold the model with activation capping.
Names below load on first use, so that `import keel` is instant.
"""

from typing import TYPE_CHECKING

from keel.front_doors import lazily, names_of

if TYPE_CHECKING:
    from keel import geometry as geometry
    from keel.engines import open_engine as open_engine
    from keel.steering import Ablation as Ablation
    from keel.steering import Addition as Addition
    from keel.steering import Ceiling as Ceiling
    from keel.steering import Probe as Probe
    from keel.steering import recorded as recorded
    from keel.steering import steered as steered
    from keel.store import load_alarm as load_alarm
    from keel.store import load_axis as load_axis
    from keel.store import load_floors as load_floors
    from keel.store import open_run as open_run
    from keel.types import Floor as Floor
    from keel.types import Floors as Floors

__version__ = "0.1.0"

_HOMES = {
    "keel.geometry": "geometry",
    "keel.engines": "open_engine",
    "keel.steering": "Ablation Addition Ceiling Probe recorded steered",
    "keel.store": "load_alarm load_axis load_floors open_run",
    "keel.types": "Floor Floors",
}

__all__ = ["__version__", *names_of(_HOMES)]

__getattr__ = lazily(__name__, _HOMES)
