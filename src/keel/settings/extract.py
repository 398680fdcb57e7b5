"""How prompts are chosen and answered, and how the maps are made of the answers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from keel.errors import UsageError
from keel.settings.flags import JUDGING, OUTPUT, SOURCES, Flag

Scale = Literal["smoke", "small", "paper"]
What = Literal["roles", "traits", "both"]
Counting = Literal["all", "fully", "somewhat", "playing", "separate"]
Spans = Literal["answer", "thinking", "both"]
"""Which of an assistant's tokens are read."""

PROMPTS_PER_ROLE = 5
"""Each role has five system prompts, different in approach."""


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled. Temperature 0 is greedy."""

    max_new_tokens: Annotated[int, Flag("--max-new-tokens", least=1)] = 512
    """Longest answer, in tokens."""
    temperature: Annotated[float, Flag("--temperature", least=0)] = 0.7
    """How freely tokens are drawn; 0 is greedy."""
    top_p: float = 0.9
    """Share (0 to 1) of the probability from whose likeliest tokens is drawn."""
    # Left out of repr: names of a sweep's evaluations are hashes of it, and old ones stay valid.
    stop: tuple[str, ...] = field(default=(), repr=False)
    """Strings that end an answer as an end token does. The text ends before the first of them; the
    answer's tokens are the fewest that hold that text, and only they are recorded."""

    def __post_init__(self) -> None:
        if not all(self.stop):
            raise UsageError("a stop string is empty, and would end every answer; leave it out")
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {self.max_new_tokens}, expected 1 or more")
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"temperature is {self.temperature}, expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}, expected above 0 and at most 1")

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values for plans and settings files.

        Without `stop` where it is empty, so that plans written before there were stop strings stay
        equal.
        """
        return {name: value for name, value in asdict(self).items() if name != "stop" or value}


@dataclass(frozen=True)
class PromptSettings:
    """How many roles and traits are asked how many questions."""

    roles: Annotated[int | None, Flag("--role-count", least=3)] = None
    """Roles to take, spread over their kinds; all where it is not set."""
    questions: Annotated[int | None, Flag("--question-count", least=2)] = None
    """Questions to take, spread over their topics; all where it is not set."""
    prompts_per_question: int = PROMPTS_PER_ROLE
    """System prompts under which a role answers each question, 1 to 5, in rotation."""
    seed: Annotated[int, Flag("--choice-seed", SOURCES, least=0)] = 0
    """Decides which roles, traits and questions are taken; the run's seed where it is not set."""
    traits: Annotated[int | None, Flag("--trait-count", least=3)] = None
    """Traits to take; all where it is not set. As many pairs ask each question as a role has
    prompts for it."""

    def __post_init__(self) -> None:
        for name in ("roles", "questions", "traits"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise UsageError(f"{name} is {count}, expected 1 or more; leave it out for all")
        if not 1 <= self.prompts_per_question <= PROMPTS_PER_ROLE:
            raise UsageError(
                f"prompts_per_question is {self.prompts_per_question}, expected 1 to "
                f"{PROMPTS_PER_ROLE}"
            )


def settings_for(scale: str) -> PromptSettings:
    """The choice at a scale: `smoke`, `small` or `paper` (all of everything).

    The first two take roles from each kind in turn, questions from each topic in turn, and traits
    at random.
    """
    known = {
        "smoke": PromptSettings(24, 14, 1, traits=12),
        "small": PromptSettings(40, 20, 2, traits=40),
        "paper": PromptSettings(),
    }
    if scale not in known:
        raise UsageError(f"scale is {scale!r}, expected {', '.join(known)}")
    return known[scale]


@dataclass(frozen=True)
class MapSettings:
    """How a persona map is made."""

    label: Annotated[Counting, Flag("--label", JUDGING)] = "all"
    """Which rollouts make a role's vector: `all` but those judged to play nothing, those judged
    `fully` or `somewhat` in role, `playing`, which is both in one, or `separate`: a vector of each,
    as in the paper, and an axis of the `fully` ones. The default's always count."""
    min_count: Annotated[int, Flag("--min-count", JUDGING, least=1)] = 10
    """Rollouts that a role needs; roles with fewer are dropped and listed."""
    components: int = 10
    """Principal components to keep, at most one fewer than roles."""
    folds_bytes: int = 2 * 2**30
    """Memory for the sums of roles × question folds; fewer folds are made where they do not fit."""
    seed: int = 0
    """Decides every resample and split."""

    def __post_init__(self) -> None:
        if self.label not in get_args(Counting):
            expected = ", ".join(get_args(Counting))
            raise UsageError(f"label is {self.label!r}, expected one of {expected}")
        for name in ("min_count", "components", "folds_bytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected 1 or more")

    def counts(self, label: str) -> bool:
        """Whether a rollout with this label (`unjudged` without one) counts towards its role."""
        match self.label:
            case "all":
                return label != "none"
            case "playing" | "separate":
                return label in ("fully", "somewhat")
            case chosen:
                return label == chosen


@dataclass(frozen=True)
class TraitSettings:
    """How a trait map is made."""

    min_pairs: Annotated[int, Flag("--min-pairs", JUDGING, least=1)] = 10
    """Pairs of answers that must differ for a trait to be kept; the others are dropped, listed."""
    min_difference: float = 50.0
    """By how much a pair's scores (0 to 100) must differ."""
    judged_pairs: int = 20
    """Pairs of each trait whose likelihood is measured where no judge was asked for."""
    components: int = 10
    """Principal components to keep, at most one fewer than traits."""
    folds_bytes: int = 2 * 2**30
    """Memory for the sums of traits × question folds; fewer folds are made where they do not
    fit."""

    def __post_init__(self) -> None:
        for name in ("min_pairs", "components", "folds_bytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if self.judged_pairs < self.min_pairs:
            raise UsageError(
                f"judged_pairs is {self.judged_pairs}, expected min_pairs ({self.min_pairs}) or "
                "more: no trait could have enough"
            )


@dataclass(frozen=True)
class ExtractSettings:
    """How the maps are extracted; `at_scale` sets everything from one dial."""

    prompts: PromptSettings
    sampling: Sampling
    mapping: MapSettings = field(default_factory=MapSettings)
    keep: Annotated[Literal["means", "sample", "none"], Flag("--keep", OUTPUT)] = "means"
    """What stays of the activations when the map is made: all response means, a sample, none."""
    seed: Annotated[int, Flag("--seed", least=0)] = 0
    """Decides every random draw."""
    what: Annotated[What, Flag("--what")] = "roles"
    """What the model answers as, beside itself: roles, which give the axis, or traits, or both."""
    traits: TraitSettings = field(default_factory=TraitSettings)
    spans: Annotated[Spans, Flag("--spans", SOURCES)] = "answer"
    """Which tokens of an answer make its mean: those after its thinking, as for floors and drift,
    its thinking, or both as one. Answers that have no such token are counted and left out."""

    @classmethod
    def at_scale(cls, scale: Scale, seed: int = 0) -> ExtractSettings:
        """`smoke`: a minute on a laptop; `small`: an hour; `paper`: Lu et al. 2026 in full."""
        new_tokens = {"smoke": 64, "small": 128, "paper": 512}[scale]
        min_count = {"smoke": 3, "small": 10, "paper": 10}[scale]
        min_pairs = {"smoke": 5, "small": 10, "paper": 10}[scale]
        return cls(
            prompts=replace(settings_for(scale), seed=seed),
            sampling=Sampling(max_new_tokens=new_tokens),
            mapping=MapSettings(min_count=min_count, seed=seed),
            seed=seed,
            traits=TraitSettings(min_pairs=min_pairs),
        )


@dataclass(frozen=True)
class ExtractSources:
    """Where an extraction takes its prompts, its answers and its labels from."""

    roles: Annotated[Path | None, Flag("--roles", SOURCES)] = None
    """Folder of role files, ours or the reference's, in place of Keel's."""
    traits: Annotated[Path | None, Flag("--traits", SOURCES)] = None
    """Folder of trait files, ours or the reference's, in place of Keel's."""
    questions: Annotated[Path | None, Flag("--questions", SOURCES)] = None
    """File of questions, JSONL or one a line, in place of Keel's."""
    rollouts_from: Annotated[Path | None, Flag("--rollouts-from", SOURCES, metavar="RUN")] = None
    """Run whose answers are read instead of giving new ones."""
    judge: Annotated[Literal["none", "likelihood"], Flag("--judge", JUDGING)] = "none"
    """Who labels the answers; `none`: every answer in a role counts."""


@dataclass(frozen=True)
class NullSettings:
    """Which models of random weights a run's AUC is compared with."""

    null: Annotated[Literal["documented", "untrained"], Flag("--null")] = "documented"
    """Random models that AUC and d′ are held against: those measured for the docs, or `untrained`
    ones of this model's own shape, which answer prompts of this run."""
    seeds: Annotated[int, Flag("--null-seeds", least=1)] = 3
    """Random models that `--null untrained` makes, each with weights of its own."""
    roles: int = 12
    """Roles of the run that they answer in, at most; and as themselves."""
    questions: int = 12
    """Questions of the run that they answer, at most."""
    max_new_tokens: int = 64
    """Their longest answer, in tokens, where the run's is no shorter."""

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("roles", 3), ("questions", 2), ("max_new_tokens", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}, expected {least} or more")


@dataclass(frozen=True)
class ThroughputSettings:
    """How fast answers are given, for prices in hours."""

    tokens_per_s: Annotated[float | None, Flag("--tokens-per-s", least=0)] = None
    """Speed of the engine over all its answers at once; else no hours are told."""
