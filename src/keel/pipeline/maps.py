"""Judges a run's rollouts, and makes its maps: persona space and trait space."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import islice

from keel.engines import Engine
from keel.judge import Judge, JudgementSummary, LikelihoodJudge, summarise
from keel.personas import (
    differ_in_score,
    gain_together,
    map_personas,
    map_traits,
)
from keel.pipeline.progress import Counter, OnProgress, saved_on_the_way, silent
from keel.settings import MapSettings, TraitSettings
from keel.store import Run, RunFolder
from keel.types import ActivationBatch, PersonaMap, Prompt, TraitMap, UntrainedNull
from keel.words import MANY_CUT

_WITH_THINKING = (
    "Means are over what was thought, too (--spans {spans}), while floors and drift are read from "
    "the answers after it. Levels of the two differ where the model thought."
)
_GROUP = 256
"""Rollouts judged together."""


@dataclass(frozen=True)
class Extraction:
    """The maps that an extraction made."""

    persona_map: PersonaMap | None
    """Of the roles; None where the run has none."""
    trait_map: TraitMap | None = None
    """Of the traits; None where the run has none."""
    untrained: UntrainedNull | None = None
    """What untrained models of the same shape reach; None where it was not measured."""
    cut_share: float | None = None
    """Share (0 to 1) of all answers that were cut at the token limit."""

    @classmethod
    def of(cls, run: Run) -> Extraction:
        """The maps of a finished run."""
        return cls(
            run.persona_map if run.has_map else None,
            run.trait_map if run.has_traits else None,
            run.untrained,
            run.cut_share,
        )


@dataclass(frozen=True)
class Judges:
    """The judge whose labels each map is made by; None where every answer counts."""

    roles: Judge | None
    traits: Judge | None

    @classmethod
    def of(cls, judge: Judge | None, engine: object) -> Judges:
        """The same judge for both; without one, likelihood tells a trait's pairs apart.

        That needs an engine that reads given text, which a cluster is not.
        """
        if judge is not None or not isinstance(engine, Engine):
            return cls(judge, judge)
        return cls(None, LikelihoodJudge(engine))


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
            known = {field.name for field in fields(TraitSettings)}  # older runs hold others, too
            traits = TraitSettings(**{name: before[name] for name in known & before.keys()})
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
        save = partial(folder.save_judgements, judge.name)
        with closing(saved_on_the_way(judge.judge(group), save)) as judgements_of_group:
            for _ in judgements_of_group:
                counter.add(1)


def make_maps(
    folder: RunFolder,
    prompts: Sequence[Prompt],
    judges: Judges,
    *,
    mapping: MapSettings,
    traits: TraitSettings,
) -> Extraction:
    """Makes a run's maps of its rollouts, saves them, and finishes the run.

    Each map's provenance names the judge by whose labels it was made.
    """
    run = folder.read()
    recorded = set[str]()

    def batches() -> Iterator[ActivationBatch]:
        for batch in run.activation_batches():
            recorded.update(batch.rollout_ids)
            yield batch

    roles = (
        _persona_map(run, prompts, batches, mapping, judges.roles)
        if any(prompt.is_role for prompt in prompts)
        else None
    )
    trait_map = _trait_map(run, prompts, batches, roles, traits, judges.traits)
    ends = [(len(rollout.token_ids), rollout.finish) for rollout in run.rollouts()]
    cut, tokens = sum(finish == "length" for _, finish in ends), [count for count, _ in ends]
    if cut > MANY_CUT * len(ends):
        words = (
            f"{cut:,} of {len(ends):,} answers are cut at the token limit: the maps are of how "
            "answers begin. Ask for longer ones (--max-new-tokens)."
        )
        if roles is not None:
            roles = replace(roles, warnings=(*roles.warnings, words))
        if trait_map is not None:
            trait_map = replace(trait_map, warnings=(*trait_map.warnings, words))
    folder.save_map(roles, trait_map)
    counts = {
        "rollouts": len(tokens),
        "tokens": sum(tokens),
        "empty answers": len(tokens) - len(recorded),
        "cut at the token limit": cut,
    }
    if roles is not None:
        counts |= {"roles kept": len(roles.vectors), "roles dropped": len(roles.dropped)}
    if trait_map is not None:
        counts |= {"traits kept": len(trait_map.vectors), "traits dropped": len(trait_map.dropped)}
    folder.finish(counts=counts)
    finished = folder.read()
    return Extraction(roles, trait_map, finished.untrained, finished.cut_share)


def is_mapped(
    folder: RunFolder,
    prompts: Sequence[Prompt],
    judges: Judges,
    *,
    mapping: MapSettings,
    traits: TraitSettings,
) -> bool:
    """Whether the run is finished, its maps made with these settings and judges."""
    if not folder.is_finished:
        return False
    run = folder.read()
    expected = []
    if any(prompt.is_role for prompt in prompts):
        expected.append((run.axis.provenance, asdict(mapping), judges.roles))
    if any(prompt.side for prompt in prompts):
        expected.append((run.trait_map.provenance, asdict(traits), judges.traits))
    return all(
        # A setting that is gone since makes an older map no other.
        {name: value for name, value in made.get("settings", {}).items() if name in settings}
        == settings
        and made.get("judge") == _name(judge)
        for made, settings, judge in expected
    )


def pairs_to_judge(prompts: Sequence[Prompt], most: int) -> set[str]:
    """Ids of the answers of each trait's first pairs, at most so many pairs of each."""
    seen: dict[tuple[str, bool], list[str]] = {}
    for prompt in prompts:
        if side := prompt.side:
            seen.setdefault((side.trait, side.is_encouraged), []).append(prompt.id)
    return {id for ids in seen.values() for id in ids[:most]}


def _name(judge: Judge | None) -> str | None:
    return None if judge is None else judge.name


def _persona_map(
    run: Run,
    prompts: Sequence[Prompt],
    batches: Callable[[], Iterator[ActivationBatch]],
    settings: MapSettings,
    judge: Judge | None,
) -> PersonaMap:
    made = map_personas(
        [prompt for prompt in prompts if prompt.side is None],
        batches,
        identity=run.plan.identity,
        judgements=None if judge is None else run.judgements(judge.name),
        tokens={r.prompt.id: len(r.token_ids) for r in run.rollouts() if r.prompt.is_default},
        settings=settings,
    )
    provenance = {**made.axis.provenance, "judge": _name(judge)}
    warnings = made.warnings
    thinks = run.plan.template.get("thinking", "off") != "off"
    # Before there was a choice, means were over both.
    spans = run.plan.settings.get("spans", "both" if thinks else "answer")
    if spans != "answer":
        warnings += (_WITH_THINKING.format(spans=spans),)
    return replace(made, axis=replace(made.axis, provenance=provenance), warnings=warnings)


def _trait_map(
    run: Run,
    prompts: Sequence[Prompt],
    batches: Callable[[], Iterator[ActivationBatch]],
    roles: PersonaMap | None,
    settings: TraitSettings,
    judge: Judge | None,
) -> TraitMap | None:
    if not any(prompt.side for prompt in prompts):
        return None
    differs = None
    if isinstance(judge, LikelihoodJudge):  # each judge's own scale
        differs = gain_together(judge.threshold)
    elif judge is not None:
        differs = differ_in_score(settings.min_difference)
    made = map_traits(
        [prompt for prompt in prompts if not prompt.is_role],
        batches,
        identity=run.plan.identity,
        axis=None if roles is None else roles.axis,
        roles=roles,
        judgements=None if judge is None else run.judgements(judge.name),
        differs=differs,
        settings=settings,
    )
    return replace(made, provenance={**made.provenance, "judge": _name(judge)})
