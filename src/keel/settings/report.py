"""Where the numbers of a run and its report are sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from keel.settings.flags import Flag


@dataclass(frozen=True)
class TrackingSettings:
    """Which experiment tracker gets a run, and under what name."""

    tracker: Annotated[str | None, Flag("--to", metavar="mlflow|wandb")] = None
    """Experiment tracker that gets the run's numbers and the page, besides the file."""
    project: Annotated[str, Flag("--project")] = "keel"
    """The tracker's project or experiment."""
