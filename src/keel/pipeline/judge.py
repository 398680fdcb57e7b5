"""Judges a run's rollouts, and makes its maps again by the labels."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from itertools import islice

from keel.judge import Judge, JudgementSummary, summarise
from keel.pipeline.maps import Extraction, Judges, make_maps
from keel.pipeline.progress import Counter, OnProgress, silent
from keel.settings import MapSettings, TraitSettings
from keel.store import RunFolder
from keel.types import Judgement

_SAVE_EVERY_S = 0.5
_GROUP = 256
"""Rollouts judged together."""


def judge(
    folder: RunFolder,
    judge: Judge,
    *,
    mapping: MapSettings | None,
    traits: TraitSettings | None = None,
    only: Collection[str] | None = None,
    on_progress: OnProgress = silent,
) -> tuple[JudgementSummary, Extraction | None]:
    """Judges the rollouts of a finished run; with `mapping`, makes its maps again by the labels.

    Without `traits`, traits are mapped with the settings of their last map. `only` holds the ids
    of the rollouts to judge; None judges all.
    """
    run = folder.read()
    with folder.lock():
        prompts = [rollout.prompt for rollout in run.rollouts()]
        wanted = {prompt.id for prompt in prompts} if only is None else set(only)
        judge_rollouts(folder, judge, wanted, on_progress)
        summary = summarise(run.judgements(judge.name).values())
        if mapping is None:
            return summary, None
        if traits is None:
            before = run.trait_map.provenance["settings"] if run.has_traits else {}
            traits = TraitSettings(**before)
        judges = Judges(judge, judge)
        return summary, make_maps(folder, prompts, judges, mapping=mapping, traits=traits)


def judge_rollouts(
    folder: RunFolder, judge: Judge, wanted: Collection[str], on_progress: OnProgress
) -> None:
    """Judges those of the wanted rollouts that have no judgement yet, some hundred at a time.

    Failed judgements are tried again. Judgements made before an interruption are kept.
    """
    run = folder.read()
    judgements = run.judgements(judge.name)
    known = {id for id, judgement in judgements.items() if judgement.status != "failed"}
    counter = Counter("judging", len(wanted), on_progress)
    counter.add(len(known.intersection(wanted)))
    left = (r for r in run.rollouts() if r.prompt.id in wanted and r.prompt.id not in known)
    while group := list(islice(left, _GROUP)):
        _save(folder, judge.name, judge.judge(group), counter)


def _save(folder: RunFolder, judge: str, judgements: Iterable[Judgement], counter: Counter) -> None:
    waiting: list[Judgement] = []
    saved_at = time.monotonic()
    try:
        for judgement in judgements:
            waiting.append(judgement)
            counter.add(1)
            if time.monotonic() - saved_at > _SAVE_EVERY_S:
                folder.save_judgements(judge, waiting)
                waiting, saved_at = [], time.monotonic()
    finally:
        if waiting:
            folder.save_judgements(judge, waiting)
