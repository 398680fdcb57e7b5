"""Writes a run's report: one HTML page of everything that it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keel.pipeline.sweep_metrics import is_swept
from keel.prompts import load_library, role_kinds
from keel.report import ReportInputs, render_html, report_account
from keel.store import Run, RunFolder


def report(folder: RunFolder, kinds: Mapping[str, str] | None = None) -> Path:
    """Writes everything that the run holds as one HTML page, and returns its path.

    `kinds` gives each role's kind; by default as in Keel's own library.
    """
    return folder.write_report(render_html(report_account(report_inputs(folder.read(), kinds))))


def report_inputs(run: Run, kinds: Mapping[str, str] | None = None) -> ReportInputs:
    """Gathers everything that a run holds for its report."""
    samples: dict[str, str] = {}
    for rollout in run.rollouts():
        samples.setdefault(rollout.prompt.role, rollout.text)
    return ReportInputs(
        title=run.path.name,
        identity=run.identity,
        persona_map=run.persona_map if run.has_map else None,
        trait_map=run.trait_map if run.has_traits else None,
        calibration=run.calibration if run.has_calibration else None,
        sweep=run.sweep if run.has_sweep else None,
        drift=run.drift_readings(),
        replays=run.replays(),
        evaluations={n: r for n, r in run.evaluations().items() if not is_swept(n)},
        samples=samples,
        role_kinds=dict(role_kinds(load_library()) if kinds is None else kinds),
        facts=tuple(_facts(run)),
    )


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    manifest = run.manifest
    yield "date", manifest.created
    yield "model", manifest.identity.model_id
    yield "revision", manifest.identity.revision or "local files"
    yield "weights", manifest.identity.weights_hash[:16] or "unknown"
    yield "dtype", manifest.identity.dtype
    yield from ((f"chat template: {name}", value) for name, value in manifest.template.items())
    yield from ((name, str(value)) for name, value in _leaves(manifest.settings))
    yield from ((name, f"{count:,}") for name, count in manifest.counts.items())
    yield "Keel", manifest.keel_version


def _leaves(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{name} ")
        else:
            yield f"{before}{name}".replace("_", " "), value
