"""From prompts to a persona map: answered, recorded, judged, mapped."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, Literal

from keel.engines import Batch, Engine, spoken_name
from keel.errors import TooFewSamplesError
from keel.judge import Judge, JudgementSummary, summarise
from keel.personas import MapSettings, map_personas
from keel.pipeline.progress import Counter, OnProgress, silent
from keel.prompts import Library, PromptSettings, load_library, make_prompts, settings_for
from keel.rollouts import Cluster, answer_prompts
from keel.store import Run, RunFolder, RunPlan
from keel.types import PersonaMap, Prompt, Rollout, Sampling

Scale = Literal["smoke", "small", "paper"]


@dataclass(frozen=True)
class ExtractSettings:
    """How a persona map is extracted; `at_scale` sets everything from one dial."""

    prompts: PromptSettings
    sampling: Sampling
    mapping: MapSettings = field(default_factory=MapSettings)
    keep: Literal["means", "sample", "none"] = "means"
    """What stays of the activations when the map is made: all response means, a sample, none."""
    seed: int = 0
    """Decides every random draw."""

    @classmethod
    def at_scale(cls, scale: Scale, seed: int = 0) -> ExtractSettings:
        """`smoke`: a minute on a laptop; `small`: an hour; `paper`: Lu et al. 2026 in full."""
        new_tokens = {"smoke": 64, "small": 128, "paper": 512}[scale]
        min_count = {"smoke": 3, "small": 10, "paper": 10}[scale]
        return cls(
            prompts=replace(settings_for(scale), seed=seed),
            sampling=Sampling(max_new_tokens=new_tokens),
            mapping=MapSettings(min_count=min_count, seed=seed),
            seed=seed,
        )


@dataclass(frozen=True)
class ExtractInputs:
    """Whose characters, asked what."""

    library: Library = field(default_factory=load_library)
    source: str = "keel"
    """Where the prompts come from, for the run's records."""


def extract(
    engine: Engine | Cluster,
    folder: RunFolder,
    settings: ExtractSettings,
    *,
    inputs: ExtractInputs | None = None,
    judge: Judge | None = None,
    command: str = "",
    on_progress: OnProgress = silent,
) -> PersonaMap:
    """Prompts -> rollouts with activations -> (judgements) -> vectors, persona space, axis.

    With a cluster for an engine, its machines answer, and the rest is done here. Either way, goes
    on where an interrupted call with the same arguments stopped, to the same result. Of a
    finished run only the map is made again, and only for another judge or other map settings.
    Raises StaleArtifactError when the folder was begun with other prompts, sampling or model, and
    TooFewSamplesError, before anything is answered, when no role could have enough answers.
    """
    inputs = inputs or ExtractInputs()
    prompts = _prompts(engine, settings, inputs)
    with folder.lock():
        plan = folder.begin(_plan(engine, prompts, settings, inputs, command), prompts)
        if _is_mapped(folder, settings.mapping, judge):
            folder.thin(settings.keep)  # a kill may have come between the map and this
            return folder.read().persona_map
        _answer(engine, folder, plan, prompts, settings.sampling, on_progress)
        if judge is not None:
            _judge(folder, judge, len(prompts), on_progress)
        return _finish(folder, prompts, settings, judge, on_progress)


def judge(
    folder: RunFolder,
    judge: Judge,
    *,
    mapping: MapSettings | None,
    on_progress: OnProgress = silent,
) -> tuple[JudgementSummary, PersonaMap | None]:
    """Score the rollouts of a finished run; with `mapping`, map again with those labels."""
    run = folder.read()
    total = int(run.manifest.counts["rollouts"])
    with folder.lock():
        _judge(folder, judge, total, on_progress)
        summary = summarise(run.judgements(judge.name).values())
        if mapping is None:
            return summary, None
        prompts = [rollout.prompt for rollout in run.rollouts()]
        found = _map(run, prompts, mapping, judge)
        folder.save_map(found)
        folder.finish(counts=_counts(run.rollouts(), found))
        return summary, found


def price(
    engine: Engine | Cluster, settings: ExtractSettings, inputs: ExtractInputs
) -> dict[str, Any]:
    """What an extraction would take, at the most: answers, tokens, disk. Nothing is generated."""
    prompts = _prompts(engine, settings, inputs)
    batches = engine.plan(prompts, settings.sampling)
    mean_bytes = engine.layers * (engine.identity.hidden_size * 2 + 4)
    return {
        "roles": len({p.role for p in prompts if not p.is_default}),
        "answers": len(prompts),
        "new tokens, at most": len(prompts) * settings.sampling.max_new_tokens,
        "batches": len(batches),
        "disk for activations, bytes": len(prompts) * mean_bytes,
    }


def _prompts(
    engine: Engine | Cluster, settings: ExtractSettings, inputs: ExtractInputs
) -> list[Prompt]:
    """The prompts of a run. Refuses too few for a map before the hours that answering takes."""
    name = spoken_name(engine.identity.model_id)
    prompts = make_prompts(inputs.library, settings.prompts, model_name=name)
    counts = Tally(prompt.role for prompt in prompts if not prompt.is_default)
    most = max(counts.values(), default=0)
    if most < settings.mapping.min_count:
        raise TooFewSamplesError(
            f"each role would answer {most} times, expected {settings.mapping.min_count} or more; "
            "ask more questions, or lower the minimum: --question-count, --min-count"
        )
    return prompts


def _is_mapped(folder: RunFolder, settings: MapSettings, judge: Judge | None) -> bool:
    """Whether the run is finished, with the very map that is asked for."""
    if not folder.is_finished:
        return False
    made = folder.read().axis.provenance
    name = None if judge is None else judge.name
    return made.get("settings") == asdict(settings) and made.get("judge") == name


def _plan(
    engine: Engine | Cluster,
    prompts: Sequence[Prompt],
    settings: ExtractSettings,
    inputs: ExtractInputs,
    command: str,
) -> RunPlan:
    recorded: dict[str, Any] = {**asdict(settings), "prompts_from": inputs.source}
    recorded.pop("keep")
    recorded.pop("mapping")  # maps can be made again of the same rollouts
    return RunPlan(
        identity=engine.identity,
        settings=recorded,
        seed=settings.seed,
        batches=tuple(b.places for b in engine.plan(prompts, settings.sampling)),
        template=engine.template_facts(),
        command=command,
    )


def _answer(
    engine: Engine | Cluster,
    folder: RunFolder,
    plan: RunPlan,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    on_progress: OnProgress,
) -> None:
    batches = [Batch(number, places) for number, places in enumerate(plan.batches)]
    done = folder.committed()
    counter = Counter("answering and recording", len(prompts), on_progress)
    counter.add(sum(len(b.places) for b in batches if b.number in done))
    answer = engine.answer if isinstance(engine, Cluster) else partial(answer_prompts, engine)
    for answered in answer(
        prompts,
        batches,
        sampling,
        seed=plan.seed,
        done=done,
        on_rollout=lambda rollout: counter.add(1),
    ):
        folder.commit_batch(answered.number, answered.rollouts, answered.activations)


def _judge(folder: RunFolder, judge: Judge, total: int, on_progress: OnProgress) -> None:
    """Judge what was not judged yet, some hundred rollouts at a time."""
    run = folder.read()
    known = set(run.judgements(judge.name))
    counter = Counter("judging", total, on_progress)
    counter.add(len(known))
    for group in _in_groups((r for r in run.rollouts() if r.prompt.id not in known), 256):
        found = list(judge.judge(group))
        folder.save_judgements(judge.name, found)
        counter.add(len(found))


def _finish(
    folder: RunFolder,
    prompts: Sequence[Prompt],
    settings: ExtractSettings,
    judge: Judge | None,
    on_progress: OnProgress,
) -> PersonaMap:
    run = folder.read()
    on_progress("mapping persona space", 0, 1)
    found = _map(run, prompts, settings.mapping, judge)
    folder.save_map(found)
    folder.finish(counts=_counts(run.rollouts(), found))
    folder.thin(settings.keep)
    on_progress("mapping persona space", 1, 1)
    return found


def _map(
    run: Run, prompts: Sequence[Prompt], settings: MapSettings, judge: Judge | None
) -> PersonaMap:
    """The map, whose axis says by whose judgements it was made."""
    found = map_personas(
        prompts,
        run.activation_batches,
        identity=run.plan.identity,
        judgements=None if judge is None else run.judgements(judge.name),
        settings=settings,
    )
    provenance = {**found.axis.provenance, "judge": None if judge is None else judge.name}
    return replace(found, axis=replace(found.axis, provenance=provenance))


def _counts(rollouts: Iterable[Rollout], found: PersonaMap) -> Mapping[str, int]:
    answers = tokens = empty = 0
    for rollout in rollouts:
        answers += 1
        tokens += len(rollout.token_ids)
        empty += not rollout.token_ids
    return {
        "rollouts": answers,
        "tokens": tokens,
        "empty answers": empty,
        "roles kept": len(found.vectors),
        "roles dropped": len(found.dropped),
    }


def _in_groups(rollouts: Iterator[Rollout], size: int) -> Iterator[list[Rollout]]:
    for first in rollouts:
        rest = (r for _, r in zip(range(size - 1), rollouts, strict=False))
        yield list(chain([first], rest))
