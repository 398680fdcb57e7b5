"""A run's model as it is served: its engine, its floors, and the gauge that measures its answers.

Capped by the run's chosen setting unless another is named, and uncapped only if that is requested
by name: a model that is served uncapped by mistake is the worst that can happen to a user.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from keel import pipeline
from keel.alarm import Alarm
from keel.drift import Gauge
from keel.engines import Engine, Probe, Recording, open_engine
from keel.errors import MissingArtifactError, UsageError
from keel.settings import settings_class
from keel.store import Run, open_run
from keel.types import UNSTEERED, Floors


@dataclass(frozen=True)
class ServedModel:
    """An engine with the floors that cap it and the gauge that places its answers on the axis."""

    engine: Engine
    gauge: Gauge
    floors: Floors | None
    """None: uncapped, on request."""
    alarm: Alarm | None = None
    """The run's alarm for drift, where it has one."""

    @property
    def recording(self) -> Recording:
        """What is recorded of an answer: the gauge's column, and the alarm's behind it."""
        recording = self.gauge.recording
        if self.alarm is None:
            return recording
        probe = Probe(self.alarm.layer, self.alarm.direction)
        return replace(recording, probes=(*recording.probes, probe))

    @property
    def setting(self) -> str:
        """Name of the floors; `none` if uncapped."""
        return UNSTEERED if self.floors is None else self.floors.name

    def close(self) -> None:
        """Stop what the engine started."""
        self.engine.close()


def open_served(
    path: str | Path, *, setting: str | None = None, engine: str = "transformers", **opening: Any
) -> ServedModel:
    """Open the model of a run under a setting; `opening` goes to the engine: device, dtype, ...

    Raises MissingArtifactError for a run without floors, unless the setting is `none`, and
    UsageError for a setting or an option that does not exist.
    """
    run = open_run(Path(path).resolve())
    floors = _floors(run, setting)
    _check_options(engine, opening)
    opened = open_engine(run.identity.model_id, engine=engine, **opening)
    pipeline.check_same_model(opened, run.axis)
    layer = pipeline.drift_layer(run.axis, floors)
    alarm = run.alarm if run.has_alarm else None
    if alarm is not None and floors is not None:
        alarm.check_below(floors.layers)
    gauge = Gauge.of(opened, run.axis, layer=layer, floors=floors)
    return ServedModel(opened, gauge, floors, alarm)


def _floors(run: Run, setting: str | None) -> Floors | None:
    if setting == UNSTEERED:
        return None
    floors = pipeline.floors_of(run, setting)
    if floors is None:
        raise MissingArtifactError(
            f"{run.path} has no floors, and answers would be uncapped; {run.floors_remedy}; or ask "
            f"for the model as it is: setting={UNSTEERED}"
        )
    return floors


def _check_options(engine: str, options: dict[str, Any]) -> None:
    known = [field.name for field in fields(settings_class(engine))]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(
            f"the {engine} engine has no option {', '.join(unknown)}; there are setting, engine, "
            f"{', '.join(known)}"
        )
