"""A run made of another run's rollouts: the same words, read by another model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import chain, islice

from keel.engines import Engine
from keel.judge import Judge
from keel.pipeline.extraction import complete
from keel.pipeline.mapping import Extraction
from keel.pipeline.progress import Counter, OnProgress, silent
from keel.rollouts import read_rollouts
from keel.settings import ExtractSettings
from keel.store import Run, RunFolder, RunPlan
from keel.types import Prompt, Rollout


def reread(
    engine: Engine,
    folder: RunFolder,
    source: Run,
    settings: ExtractSettings,
    *,
    judge: Judge | None = None,
    command: str = "",
    on_progress: OnProgress = silent,
) -> Extraction:
    """Another run's rollouts as this model reads them: a run of its own, with maps of its own.

    Of the settings those of prompts and sampling are not used: the rollouts are what they are.
    Goes on where an interrupted call stopped. Raises StaleArtifactError when the folder was begun
    with other rollouts or another model.
    """
    prompts = _prompts(source)
    with folder.lock():
        plan = folder.begin(_plan(engine, source, settings, command), prompts)
        return complete(
            engine,
            folder,
            prompts,
            settings,
            answer=partial(_read, engine, folder, plan, source, on_progress),
            judge=judge,
            on_progress=on_progress,
        )


def _prompts(source: Run) -> list[Prompt]:
    """The source's prompts as they were planned, so that roles and traits keep their order."""
    places = chain.from_iterable(source.plan.batches)
    placed = dict(zip(places, (rollout.prompt for rollout in source.rollouts()), strict=True))
    return [placed[place] for place in range(len(placed))]


def _plan(engine: Engine, source: Run, settings: ExtractSettings, command: str) -> RunPlan:
    return RunPlan(
        identity=engine.identity,
        settings={
            "rollouts_from": {"settings": source.manifest.settings, **_answers(source)},
            "seed": settings.seed,
        },
        seed=settings.seed,
        batches=source.plan.batches,
        template=engine.template_facts(),
        command=command,
    )


def _answers(source: Run) -> dict[str, object]:
    """What tells the source's answers from those of any other run."""
    files = source.manifest.files
    return {
        "model": asdict(source.identity),
        "rollouts": {name: files[name] for name in files if name.startswith("rollouts/")},
    }


def _read(
    engine: Engine, folder: RunFolder, plan: RunPlan, source: Run, on_progress: OnProgress
) -> None:
    done = folder.committed()
    total = sum(len(batch) for batch in plan.batches)
    counter = Counter("reading rollouts", total, on_progress)
    rollouts = source.rollouts()
    is_same = source.identity.mismatch(engine.identity) is None
    for number, batch in enumerate(plan.batches):
        some = _take(rollouts, len(batch))
        if number not in done:
            answered = read_rollouts(engine, some, number, by_token=is_same)
            folder.commit_batch(number, answered.rollouts, answered.activations)
        counter.add(len(batch))


def _take(rollouts: Iterator[Rollout], count: int) -> list[Rollout]:
    return list(islice(rollouts, count))
