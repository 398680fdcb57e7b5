"""Maps of several models -> how alike their spaces are, and what changed between checkpoints."""

from keel.compare.compare import compare_maps
from keel.compare.values import Mapped
from keel.settings import CompareSettings

__all__ = ["CompareSettings", "Mapped", "compare_maps"]
