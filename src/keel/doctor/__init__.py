"""Says whether Keel works on a model: runs it in every way that Keel does, against plain passes."""

from keel.doctor.examination import CHECK_NAMES, Check, Examination, examine
from keel.doctor.shrinking import model_types, shrunken_config, shrunken_like, shrunken_model

__all__ = [
    "CHECK_NAMES",
    "Check",
    "Examination",
    "examine",
    "model_types",
    "shrunken_config",
    "shrunken_like",
    "shrunken_model",
]
