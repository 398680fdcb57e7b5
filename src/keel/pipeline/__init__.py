"""The order of the stages: the only place that knows it.

Each function takes an engine and a run folder, runs a stage, and saves its result in the run. All
of them can be interrupted and called again. Names load at their first use: a report is drawn
without what computes a run.
"""

from typing import TYPE_CHECKING

from keel.front_doors import lazily, names_of

if TYPE_CHECKING:
    from keel.evaluate import Evaluation as Evaluation
    from keel.pipeline.alarming import *  # noqa: F403
    from keel.pipeline.axis import *  # noqa: F403
    from keel.pipeline.borrowing import *  # noqa: F403
    from keel.pipeline.comparing import *  # noqa: F403
    from keel.pipeline.demo import *  # noqa: F403
    from keel.pipeline.evaluating import *  # noqa: F403
    from keel.pipeline.extracting import *  # noqa: F403
    from keel.pipeline.maps import *  # noqa: F403
    from keel.pipeline.progress import *  # noqa: F403
    from keel.pipeline.reporting import *  # noqa: F403
    from keel.pipeline.studying import *  # noqa: F403
    from keel.pipeline.suites import *  # noqa: F403
    from keel.pipeline.sweeping import *  # noqa: F403
    from keel.pipeline.tracking import *  # noqa: F403
    from keel.pipeline.transcribed import *  # noqa: F403
    from keel.pipeline.untrained import *  # noqa: F403
    from keel.settings import DriftStudySettings as DriftStudySettings
    from keel.settings import ExtractSettings as ExtractSettings
    from keel.settings import Scale as Scale
    from keel.settings import SweepSettings as SweepSettings
    from keel.settings import What as What
    from keel.types import is_swept as is_swept

_HOMES = {
    "keel.evaluate": "Evaluation",
    "keel.pipeline.alarming": (
        "LayerChoice WatchedConversation alarm_layer calibrate_alarm check_calibration watch"
    ),
    "keel.pipeline.axis": (
        "TransferredAxis arms_of calibrate check_drift check_same_model drift drift_layer "
        "floors_of replay_conversation transfer_axis"
    ),
    "keel.pipeline.borrowing": "borrow_run",
    "keel.pipeline.comparing": "compare comparison_page",
    "keel.pipeline.demo": "RECORDED_MODEL Demo record_demo run_demo show_demo",
    "keel.pipeline.evaluating": "check_begun evaluate price_evaluation",
    "keel.pipeline.extracting": "ExtractInputs check_extract extract price reread",
    "keel.pipeline.maps": "Extraction judge",
    "keel.pipeline.progress": "OnProgress silent",
    "keel.pipeline.reporting": "case_page report report_inputs",
    "keel.pipeline.transcribed": "check_given study_transcripts",
    "keel.pipeline.studying": "check_study study_drift",
    "keel.pipeline.study_price": "price_study price_transcripts",
    "keel.pipeline.suites": "SUITES open_suite",
    "keel.pipeline.sweeping": "SweepInputs price_sweep sweep",
    "keel.pipeline.tracking": "tracked_run",
    "keel.pipeline.untrained": "measure_untrained",
    "keel.settings": "DriftStudySettings ExtractSettings Scale SweepSettings What",
    "keel.types": "is_swept",
}

__all__ = names_of(_HOMES)

__getattr__ = lazily(__name__, _HOMES)
