"""Everything on disk: whole or absent, hashed, versioned, never pickled. Knows no stage."""

from keel.store.alarms import WatchState
from keel.store.artefacts import save_axis
from keel.store.batches import JournalFolder
from keel.store.copies import pull_run, push_run
from keel.store.evaluations import ArmRecord, EvaluationFolder, Moved, evaluations_in
from keel.store.files import write_bytes
from keel.store.floors import FloorsFile, check_setting, read_floors, save_floors
from keel.store.folder import RunFolder, SweepWork
from keel.store.foreign import export_capping_config_pt
from keel.store.foreign_axes import (
    PUBLISHED,
    ROWS_ASSUMED,
    FirstRow,
    PublishedAxis,
    export_axis_pt,
    export_gguf_control_vector,
    export_lm_eval_steering,
    read_gguf_control_vector,
)
from keel.store.hub_folder import export_hub_folder
from keel.store.load import load_alarm, load_axis, load_floors, load_settings, locate
from keel.store.provenance import EvaluationPlan, Kept, Manifest, RunPlan
from keel.store.published import Borrowed, borrow, keep_borrowed, published_axis
from keel.store.records import parse_record, record_keys
from keel.store.run import Run, find_runs, open_run
from keel.store.studies import AnsweredTurns, StudyFolder

__all__ = [
    "PUBLISHED",
    "ROWS_ASSUMED",
    "AnsweredTurns",
    "ArmRecord",
    "Borrowed",
    "EvaluationFolder",
    "EvaluationPlan",
    "FirstRow",
    "FloorsFile",
    "JournalFolder",
    "Kept",
    "Manifest",
    "Moved",
    "PublishedAxis",
    "Run",
    "RunFolder",
    "RunPlan",
    "StudyFolder",
    "SweepWork",
    "WatchState",
    "borrow",
    "check_setting",
    "evaluations_in",
    "export_axis_pt",
    "export_capping_config_pt",
    "export_gguf_control_vector",
    "export_hub_folder",
    "export_lm_eval_steering",
    "find_runs",
    "keep_borrowed",
    "load_alarm",
    "load_axis",
    "load_floors",
    "load_settings",
    "locate",
    "open_run",
    "parse_record",
    "published_axis",
    "pull_run",
    "push_run",
    "read_floors",
    "read_gguf_control_vector",
    "record_keys",
    "save_axis",
    "save_floors",
    "write_bytes",
]
