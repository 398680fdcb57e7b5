"""The order of the stages: the only place that knows it.

Each function takes an engine and a run folder, runs a stage, and saves its result in the run. All
of them can be interrupted and called again.
"""

from keel.evaluate import SUITES, Evaluation, open_suite
from keel.pipeline import suites as _own_suites  # noqa: F401 - registers them
from keel.pipeline.alarming import (
    LayerChoice,
    WatchedConversation,
    alarm_layer,
    calibrate_alarm,
    check_calibration,
    watch,
)
from keel.pipeline.axis import (
    TransferredAxis,
    arms_of,
    calibrate,
    check_drift,
    check_same_model,
    drift,
    drift_layer,
    floors_of,
    replay_conversation,
    transfer_axis,
)
from keel.pipeline.borrowing import borrow_run
from keel.pipeline.demo import RECORDED_MODEL, Demo, record_demo, run_demo, show_demo
from keel.pipeline.evaluating import check_begun, evaluate, price_evaluation
from keel.pipeline.extract import (
    ExtractInputs,
    check_extract,
    extract,
    price,
    reread,
)
from keel.pipeline.maps import Extraction, judge
from keel.pipeline.progress import OnProgress, silent
from keel.pipeline.report import case_page, compare, comparison_page, report, report_inputs
from keel.pipeline.study_transcripts import check_given, study_transcripts
from keel.pipeline.studying import check_study, price_study, study_drift
from keel.pipeline.sweep import SweepInputs, is_swept, price_sweep, sweep
from keel.pipeline.tracking import tracked_run
from keel.pipeline.untrained import measure_untrained
from keel.settings import DriftStudySettings, ExtractSettings, Scale, SweepSettings, What

__all__ = [
    "RECORDED_MODEL",
    "SUITES",
    "Demo",
    "DriftStudySettings",
    "Evaluation",
    "ExtractInputs",
    "ExtractSettings",
    "Extraction",
    "LayerChoice",
    "OnProgress",
    "Scale",
    "SweepInputs",
    "SweepSettings",
    "TransferredAxis",
    "WatchedConversation",
    "What",
    "alarm_layer",
    "arms_of",
    "borrow_run",
    "calibrate",
    "calibrate_alarm",
    "case_page",
    "check_begun",
    "check_calibration",
    "check_drift",
    "check_extract",
    "check_given",
    "check_same_model",
    "check_study",
    "compare",
    "comparison_page",
    "drift",
    "drift_layer",
    "evaluate",
    "extract",
    "floors_of",
    "is_swept",
    "judge",
    "measure_untrained",
    "open_suite",
    "price",
    "price_evaluation",
    "price_study",
    "price_sweep",
    "record_demo",
    "replay_conversation",
    "report",
    "report_inputs",
    "reread",
    "run_demo",
    "show_demo",
    "silent",
    "study_drift",
    "study_transcripts",
    "sweep",
    "tracked_run",
    "transfer_axis",
    "watch",
]
