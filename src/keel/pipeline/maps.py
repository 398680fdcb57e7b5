"""Makes the maps of a run, persona space and trait space, from its answered rollouts."""

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
    """The maps that an extraction made."""

    persona_map: PersonaMap | None
    """Of the roles; None where the run has none."""
    trait_map: TraitMap | None = None
    """Of the traits; None where the run has none."""


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
    roles = _persona_map(run, prompts, mapping, judges.roles) if _has_roles(prompts) else None
    made = Extraction(roles, _trait_map(run, prompts, roles, traits, judges.traits))
    folder.save_map(made.persona_map, made.trait_map)
    folder.finish(counts=_counts(run.rollouts(), made))
    return made


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
    if _has_roles(prompts):
        expected.append((run.axis.provenance, asdict(mapping), judges.roles))
    if _has_traits(prompts):
        expected.append((run.trait_map.provenance, asdict(traits), judges.traits))
    return all(
        made.get("settings") == settings and made.get("judge") == _name(judge)
        for made, settings, judge in expected
    )


def read_maps(run: Run) -> Extraction:
    """The maps of a finished run."""
    return Extraction(
        run.persona_map if run.has_map else None, run.trait_map if run.has_traits else None
    )


def pairs_to_judge(prompts: Sequence[Prompt], most: int) -> set[str]:
    """Ids of the answers of each trait's first pairs, at most so many pairs of each."""
    seen: dict[tuple[str, bool], list[str]] = {}
    for prompt in prompts:
        if side := prompt.side:
            seen.setdefault((side.trait, side.is_encouraged), []).append(prompt.id)
    return {id for ids in seen.values() for id in ids[:most]}


def _counts(rollouts: Iterable[Rollout], maps: Extraction) -> Mapping[str, int]:
    """The counts that the manifest holds."""
    answers = tokens = empty = 0
    for rollout in rollouts:
        answers += 1
        tokens += len(rollout.token_ids)
        empty += not rollout.token_ids
    counts = {"rollouts": answers, "tokens": tokens, "empty answers": empty}
    if (roles := maps.persona_map) is not None:
        counts |= {"roles kept": len(roles.vectors), "roles dropped": len(roles.dropped)}
    if (traits := maps.trait_map) is not None:
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
    made = map_personas(
        [prompt for prompt in prompts if prompt.side is None],
        run.activation_batches,
        identity=run.plan.identity,
        judgements=None if judge is None else run.judgements(judge.name),
        settings=settings,
    )
    provenance = {**made.axis.provenance, "judge": _name(judge)}
    return replace(made, axis=replace(made.axis, provenance=provenance))


def _trait_map(
    run: Run,
    prompts: Sequence[Prompt],
    roles: PersonaMap | None,
    settings: TraitSettings,
    judge: Judge | None,
) -> TraitMap | None:
    if not _has_traits(prompts):
        return None
    made = map_traits(
        [prompt for prompt in prompts if not prompt.is_role],
        run.activation_batches,
        identity=run.plan.identity,
        axis=None if roles is None else roles.axis,
        judgements=None if judge is None else run.judgements(judge.name),
        differs=None if judge is None else _pair_test(judge, settings),
        settings=settings,
    )
    return replace(made, provenance={**made.provenance, "judge": _name(judge)})


def _pair_test(judge: Judge, settings: TraitSettings) -> PairTest:
    """The test of whether a pair of answers differs, in the judge's own scale."""
    if isinstance(judge, LikelihoodJudge):
        return gain_together(judge.threshold)
    return differ_in_score(settings.min_difference)
