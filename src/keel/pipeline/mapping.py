"""From answered and judged rollouts to the maps of a run: persona space, trait space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from keel.engines import Engine
from keel.judge import Judge, LikelihoodJudge
from keel.personas import (
    MapSettings,
    PairTest,
    TraitSettings,
    differ_in_score,
    gain_together,
    map_personas,
    map_traits,
)
from keel.store import Run, RunFolder
from keel.types import PersonaMap, Prompt, Rollout, TraitMap


@dataclass(frozen=True)
class Extraction:
    """What one extraction found."""

    persona_map: PersonaMap | None
    """Of the roles; None where none was asked for."""
    trait_map: TraitMap | None = None
    """Of the traits; None where none was asked for."""


@dataclass(frozen=True)
class Judges:
    """Whose judgements each map is made by; None where every answer counts."""

    roles: Judge | None
    traits: Judge | None

    @classmethod
    def of(cls, judge: Judge | None, engine: object) -> Judges:
        """A judge for both; without one, the traits' pairs are told apart by likelihood.

        That needs an engine that reads, which a cluster is not.
        """
        if judge is not None or not isinstance(engine, Engine):
            return cls(judge, judge)
        return cls(None, LikelihoodJudge(engine))


def map_run(
    run: Run,
    prompts: Sequence[Prompt],
    judges: Judges,
    *,
    mapping: MapSettings,
    traits: TraitSettings,
) -> Extraction:
    """The maps of a run; each says by whose judgements it was made."""
    found = _persona_map(run, prompts, mapping, judges.roles) if _has_roles(prompts) else None
    return Extraction(found, _trait_map(run, prompts, found, traits, judges.traits))


def is_mapped(
    folder: RunFolder,
    prompts: Sequence[Prompt],
    judges: Judges,
    *,
    mapping: MapSettings,
    traits: TraitSettings,
) -> bool:
    """Whether the run is finished, with the very maps that are asked for."""
    if not folder.is_finished:
        return False
    run = folder.read()
    asked = []
    if _has_roles(prompts):
        made = run.axis.provenance
        asked.append(made.get("settings") == asdict(mapping))
        asked.append(made.get("judge") == _name(judges.roles))
    if _has_traits(prompts):
        made = run.trait_map.provenance
        asked.append(made.get("settings") == asdict(traits))
        asked.append(made.get("judge") == _name(judges.traits))
    return all(asked)


def read_maps(run: Run) -> Extraction:
    """The maps that a finished run holds."""
    return Extraction(
        run.persona_map if run.has_map else None, run.trait_map if run.has_traits else None
    )


def pairs_to_judge(prompts: Sequence[Prompt], most: int) -> set[str]:
    """Ids of the answers to judge where each trait's first pairs will do."""
    seen: dict[tuple[str, bool], list[str]] = {}
    for prompt in prompts:
        if side := prompt.side:
            seen.setdefault((side.trait, side.is_encouraged), []).append(prompt.id)
    return {id for ids in seen.values() for id in ids[:most]}


def count_all(rollouts: Iterable[Rollout], found: Extraction) -> Mapping[str, int]:
    """What the manifest counts."""
    answers = tokens = empty = 0
    for rollout in rollouts:
        answers += 1
        tokens += len(rollout.token_ids)
        empty += not rollout.token_ids
    counts = {"rollouts": answers, "tokens": tokens, "empty answers": empty}
    if (roles := found.persona_map) is not None:
        counts |= {"roles kept": len(roles.vectors), "roles dropped": len(roles.dropped)}
    if (traits := found.trait_map) is not None:
        counts |= {"traits kept": len(traits.vectors), "traits dropped": len(traits.dropped)}
    return counts


def _has_roles(prompts: Sequence[Prompt]) -> bool:
    return any(prompt.is_role for prompt in prompts)


def _has_traits(prompts: Sequence[Prompt]) -> bool:
    return any(prompt.side for prompt in prompts)


def _name(judge: Judge | None) -> str | None:
    return None if judge is None else judge.name


def _persona_map(
    run: Run, prompts: Sequence[Prompt], settings: MapSettings, judge: Judge | None
) -> PersonaMap:
    found = map_personas(
        [prompt for prompt in prompts if prompt.side is None],
        run.activation_batches,
        identity=run.plan.identity,
        judgements=None if judge is None else run.judgements(judge.name),
        settings=settings,
    )
    provenance = {**found.axis.provenance, "judge": _name(judge)}
    return replace(found, axis=replace(found.axis, provenance=provenance))


def _trait_map(
    run: Run,
    prompts: Sequence[Prompt],
    roles: PersonaMap | None,
    settings: TraitSettings,
    judge: Judge | None,
) -> TraitMap | None:
    if not _has_traits(prompts):
        return None
    found = map_traits(
        [prompt for prompt in prompts if not prompt.is_role],
        run.activation_batches,
        identity=run.plan.identity,
        axis=None if roles is None else roles.axis,
        judgements=None if judge is None else run.judgements(judge.name),
        differs=None if judge is None else _test(judge, settings),
        settings=settings,
    )
    return replace(found, provenance={**found.provenance, "judge": _name(judge)})


def _test(judge: Judge, settings: TraitSettings) -> PairTest:
    """When a pair differs, in the judge's own scale."""
    if isinstance(judge, LikelihoodJudge):
        return gain_together(judge.threshold)
    return differ_in_score(settings.min_difference)
