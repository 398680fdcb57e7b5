"""Says whether Keel works on a model: runs it in every way that Keel does, against plain passes."""

from keel.doctor.examination import CHECK_NAMES, Check, Examination, examine

__all__ = ["CHECK_NAMES", "Check", "Examination", "examine"]
