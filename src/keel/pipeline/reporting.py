"""A run's report: one HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.prompts import load_library, role_kinds
from keel.report import (
    ReportInputs,
    case_account,
    render_html,
    report_account,
)
from keel.store import Run, RunFolder, StudyFolder, open_run
from keel.types import DriftStudy, Replay, StudiedConversation, is_swept

_SHOWN_TRANSCRIPTS = 25
"""People of a study whose first conversation the page holds whole, under each arm."""


RECORDING = "recorded.json"
"""In a run that ships with Keel: where it was computed."""


def read_recording(path: Path) -> str:
    """Where and when the run that ships with Keel was computed; empty of any other run."""
    if not (path / RECORDING).is_file():
        return ""
    facts = json.loads((path / RECORDING).read_text(encoding="utf-8"))
    return (
        f"Recorded, not computed here: {facts['machine']}, {facts['date']}, "
        f"commit {facts['commit']}."
    )


def report(folder: RunFolder, kinds: Mapping[str, str] | None = None) -> Path:
    """Writes everything that the run holds as one HTML page, and returns its path.

    `kinds` gives each role's kind; by default as in Keel's own library.
    """
    run = open_run(folder.path, "np")  # nothing is computed: torch is not imported
    return folder.write_report(render_html(report_account(report_inputs(run, kinds))))


def case_page(folder: RunFolder, replayed: Replay) -> Path:
    """Writes one replayed conversation as a page of its own in the run, and returns its path."""
    run = folder.read()
    axis = None if run.has_map else run.axis
    page = render_html(case_account(replace(report_inputs(run), axis=axis), replayed))
    return folder.write_case(replayed.conversation_id, page)


def report_inputs(run: Run, kinds: Mapping[str, str] | None = None) -> ReportInputs:
    """Gathers everything that a run holds for its report."""
    samples: dict[str, str] = {}
    for rollout in run.rollouts():
        question = rollout.prompt.conversation.messages[-1].content
        samples.setdefault(rollout.prompt.role, f"\u201c{question}\u201d {rollout.text}")
    return ReportInputs(
        title=run.path.name,
        identity=run.identity,
        persona_map=run.persona_map if run.has_map else None,
        trait_map=run.trait_map if run.has_traits else None,
        untrained=run.untrained,
        cut_share=run.cut_share,
        calibration=run.calibration if run.has_calibration else None,
        sweep=run.sweep if run.has_sweep else None,
        drift=run.drift_readings(),
        replays=run.replays(),
        evaluations={n: r for n, r in run.evaluations().items() if not is_swept(n)},
        studies=(studies := run.studies()),
        transcripts={n: tuple(_transcripts(run, n, study)) for n, study in studies.items()},
        samples=samples,
        role_kinds=dict(role_kinds(load_library()) if kinds is None else kinds),
        facts=tuple(run_facts(run)),
        warnings=tuple(filter(None, [read_recording(run.path)])),
    )


def _transcripts(run: Run, name: str, study: DriftStudy) -> Iterator[StudiedConversation]:
    """The first conversation of each of the first people under each arm."""
    folder = StudyFolder(RunFolder(run.path), name)
    for arm in study.arms:
        shown: set[str] = set()
        for talk in folder.transcripts(arm):
            person = talk.planned.person
            if person not in shown and len(shown) < _SHOWN_TRANSCRIPTS:
                shown.add(person)
                yield talk


def run_facts(run: Run) -> Iterator[tuple[str, str]]:
    """Date, model, settings, counts and version of a run, as text."""
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
