"""Keel keeps open-weight language models in character.

Map persona space, find the Assistant Axis, watch drift, hold the model with activation capping.
Names below load on first use, so that `import keel` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    "geometry": "keel.geometry",
    "open_engine": "keel.engines",
    "Ablation": "keel.steering",
    "Addition": "keel.steering",
    "Ceiling": "keel.steering",
    "Probe": "keel.steering",
    "recorded": "keel.steering",
    "steered": "keel.steering",
    "load_alarm": "keel.store",
    "load_axis": "keel.store",
    "load_floors": "keel.store",
    "open_run": "keel.store",
    "Floor": "keel.types",
    "Floors": "keel.types",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'keel' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    return home if home.__name__ == f"keel.{name}" else getattr(home, name)
