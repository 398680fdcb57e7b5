"""Says whether Keel works on a model: runs it in every way that Keel does, against plain passes."""

from keel.doctor.examination import Check, Examination, examine

__all__ = ["Check", "Examination", "examine"]
