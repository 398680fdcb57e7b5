"""Maps of several models -> how alike their spaces are, and what changed between checkpoints."""

from keel.compare.compare import compare_maps
from keel.compare.values import RunMaps
from keel.settings import CompareSettings

__all__ = ["CompareSettings", "RunMaps", "compare_maps"]
