"""Rollouts scored, a run's or some of them, and its maps made again by the scores."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain

from keel.judge import Judge, JudgementSummary, summarise
from keel.personas import MapSettings, TraitSettings
from keel.pipeline.mapping import Extraction, Judges, count_all, map_run
from keel.pipeline.progress import Counter, OnProgress, silent
from keel.store import Run, RunFolder
from keel.types import Rollout


def judge(
    folder: RunFolder,
    judge: Judge,
    *,
    mapping: MapSettings | None,
    traits: TraitSettings | None = None,
    on_progress: OnProgress = silent,
) -> tuple[JudgementSummary, Extraction | None]:
    """Score the rollouts of a finished run; with `mapping`, map again with those labels.

    Traits are mapped again as they were, where `traits` says nothing else.
    """
    run = folder.read()
    with folder.lock():
        prompts = [rollout.prompt for rollout in run.rollouts()]
        judge_rollouts(folder, judge, {prompt.id for prompt in prompts}, on_progress)
        summary = summarise(run.judgements(judge.name).values())
        if mapping is None:
            return summary, None
        found = map_run(
            run, prompts, Judges(judge, judge), mapping=mapping, traits=traits or _as_before(run)
        )
        folder.save_map(found.persona_map, found.trait_map)
        folder.finish(counts=count_all(run.rollouts(), found))
        return summary, found


def _as_before(run: Run) -> TraitSettings:
    if not run.has_traits:
        return TraitSettings()
    return TraitSettings(**run.trait_map.provenance["settings"])


def judge_rollouts(
    folder: RunFolder, judge: Judge, wanted: Collection[str], on_progress: OnProgress
) -> None:
    """Judge what is wanted and was not judged yet, some hundred rollouts at a time."""
    run = folder.read()
    known = set(run.judgements(judge.name))
    counter = Counter("judging", len(wanted), on_progress)
    counter.add(len(known.intersection(wanted)))
    asked = (r for r in run.rollouts() if r.prompt.id in wanted and r.prompt.id not in known)
    for group in _in_groups(asked, 256):
        found = list(judge.judge(group))
        folder.save_judgements(judge.name, found)
        counter.add(len(found))


def _in_groups(rollouts: Iterator[Rollout], size: int) -> Iterator[list[Rollout]]:
    for first in rollouts:
        rest = (r for _, r in zip(range(size - 1), rollouts, strict=False))
        yield list(chain([first], rest))
