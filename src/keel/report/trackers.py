"""Sends a run's numbers and its report to an experiment tracker. Knows nothing of run folders.

Where a tracker keeps things, and under whose key, is set as it says itself: `MLFLOW_TRACKING_URI`,
`WANDB_MODE`, `WANDB_API_KEY` and the like.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keel.errors import MissingExtraError, TrackerError
from keel.registry import Registry


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is sent."""

    name: str
    parameters: Mapping[str, str]
    """Model, settings and versions, as text."""
    numbers: Mapping[str, float]
    """Name -> value; a name's parts are separated by `/`."""
    series: Mapping[str, Sequence[float]]
    """Name -> a value per step: layer, or turn."""
    page: Path
    """The report."""


Tracker = Callable[[TrackedRun, str], str]
"""Sends a run to a project, and returns where it can be seen."""

TRACKERS: Registry[Tracker] = Registry("tracker", "keel.trackers")


def tracker(name: str) -> Callable[[Tracker], Tracker]:
    """Registers a function as the tracker of that name."""

    def register(function: Tracker) -> Tracker:
        TRACKERS.add(name, function, function)
        return function

    return register


def send_to_tracker(name: str, run: TrackedRun, project: str) -> str:
    """Sends a run to the tracker of that name, and returns where it can be seen.

    What is not finite is left out. Raises UsageError for an unknown tracker, MissingExtraError
    where its package is not installed, and TrackerError where it did not take the run.
    """
    send = TRACKERS.get(name)
    finite = {key: value for key, value in run.numbers.items() if math.isfinite(value)}
    try:
        return send(replace(run, numbers=finite), project)
    except MissingExtraError:
        raise
    except Exception as error:
        raise TrackerError(
            f"{name} did not take the run: {type(error).__name__}: {error}; {run.page} is written, "
            f"so mend {name}'s own settings and give the same command again"
        ) from error


@tracker("mlflow")
def _send_to_mlflow(run: TrackedRun, project: str) -> str:
    mlflow = _installed("mlflow")
    mlflow.set_experiment(project)
    with mlflow.start_run(run_name=run.name) as active:
        mlflow.log_params({_mlflow_key(key): value for key, value in run.parameters.items()})
        mlflow.log_metrics({_mlflow_key(key): value for key, value in run.numbers.items()})
        for key, values in run.series.items():
            for step, value in enumerate(values):
                if math.isfinite(value):
                    mlflow.log_metric(_mlflow_key(key), value, step=step)
        mlflow.log_artifact(str(run.page))
    return f"{mlflow.get_tracking_uri()}, experiment {project}, run {active.info.run_id}"


def _mlflow_key(name: str) -> str:
    """The name with the characters that MLflow takes."""
    return re.sub(r"[^\w\-./ ]", "_", name)


@tracker("wandb")
def _send_to_wandb(run: TrackedRun, project: str) -> str:
    wandb = _installed("wandb")
    with wandb.init(project=project, name=run.name, config=dict(run.parameters)) as active:
        active.summary.update(run.numbers)
        for key, values in run.series.items():
            table = wandb.Table(
                columns=["step", "value"], data=[list(item) for item in enumerate(values)]
            )
            active.log({key: wandb.plot.line(table, "step", "value", title=key)})
        active.log({"report": wandb.Html(run.page.read_text(encoding="utf-8"), inject=False)})
        return str(active.url or active.dir)


def _installed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"{package} is not installed: pip install 'keel-llm[{package}]'"
        ) from error
