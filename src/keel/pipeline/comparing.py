"""The comparison of several runs, pair by pair, and its HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from keel.compare import CompareSettings, RunMaps, compare_maps
from keel.errors import UsageError
from keel.report import ComparisonInputs, comparison_account, render_html
from keel.store import Run
from keel.types import RunComparison


def compare(
    runs: Sequence[Run], settings: CompareSettings = CompareSettings()
) -> tuple[RunComparison, ...]:
    """Compares each pair of the runs, in the order given.

    Raises UsageError with fewer than two runs, or with the same one twice.
    """
    if len(runs) < 2:
        raise UsageError(f"{len(runs)} run is given, expected two or more; name another one")
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise UsageError("a run is given twice; name two different ones")
    maps = [
        RunMaps(
            str(run.path),
            run.identity,
            run.persona_map if run.has_map else None,
            run.trait_map if run.has_traits else None,
        )
        for run in runs
    ]
    return tuple(compare_maps(first, second, settings) for first, second in combinations(maps, 2))


def comparison_page(runs: Sequence[Run], pairs: tuple[RunComparison, ...]) -> str:
    """The comparison as one self-contained HTML page."""
    head = tuple(f"{run.path.name}: {run.identity.model_id}" for run in runs)
    title = " · ".join(run.path.name for run in runs)
    date = max(run.manifest.created for run in runs)
    return render_html(comparison_account(ComparisonInputs(title, head, pairs, date)))
