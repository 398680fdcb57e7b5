"""The order of the stages: the only place that knows it.

Each function takes an engine and a run folder, runs a stage, and keeps what it found. All of them
can be interrupted and called again.
"""

from keel.pipeline.comparing import compare, comparison_page
from keel.pipeline.extraction import (
    ExtractInputs,
    ExtractSettings,
    Scale,
    What,
    extract,
    price,
)
from keel.pipeline.holding import (
    calibrate,
    check_same_model,
    drift,
    drift_layer,
    floors_of,
    replay_conversation,
)
from keel.pipeline.judging import judge
from keel.pipeline.mapping import Extraction
from keel.pipeline.progress import OnProgress, silent
from keel.pipeline.reporting import report, report_inputs
from keel.pipeline.rereading import reread
from keel.pipeline.tour import Tour, tour

__all__ = [
    "ExtractInputs",
    "ExtractSettings",
    "Extraction",
    "OnProgress",
    "Scale",
    "Tour",
    "What",
    "calibrate",
    "check_same_model",
    "compare",
    "comparison_page",
    "drift",
    "drift_layer",
    "extract",
    "floors_of",
    "judge",
    "price",
    "replay_conversation",
    "report",
    "report_inputs",
    "reread",
    "silent",
    "tour",
]
