"""Maps of several models -> how alike their spaces are, and what changed between checkpoints."""

from keel.compare.compare import RunMaps, compare_maps
from keel.settings import CompareSettings

__all__ = ["CompareSettings", "RunMaps", "compare_maps"]
