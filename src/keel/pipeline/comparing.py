"""Several runs side by side: read, compared pair by pair, drawn."""

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
    """Every pair of the runs, in the order given. Raises UsageError with fewer than two."""
    if len(runs) < 2:
        raise UsageError(f"{len(runs)} run is given, expected two or more; name another one")
    names = [str(run.path) for run in runs]
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise UsageError("a run is given twice; name two different ones")
    maps = [_mapped(run, name) for run, name in zip(runs, names, strict=True)]
    return tuple(compare_maps(one, other, settings) for one, other in combinations(maps, 2))


def comparison_page(runs: Sequence[Run], found: tuple[RunComparison, ...]) -> str:
    """The comparison as one self-contained HTML page."""
    head = tuple(f"{run.path.name}: {run.identity.model_id}" for run in runs)
    title = " · ".join(run.path.name for run in runs)
    date = max(run.manifest.created for run in runs)
    return render_html(comparison_account(ComparisonInputs(title, head, found, date)))


def _mapped(run: Run, name: str) -> RunMaps:
    return RunMaps(
        name,
        run.identity,
        run.persona_map if run.has_map else None,
        run.trait_map if run.has_traits else None,
    )
