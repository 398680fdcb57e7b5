"""The map of one run: role vectors, the axis, persona space, and how far each can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from keel.errors import TooFewSamplesError, UsageError
from keel.personas.axis import assistant_axis, axis_folds, fit_space, role_vectors, row_name
from keel.personas.cells import Cells, RolloutIndex, check_default, check_shape, gather_cells
from keel.personas.default_answers import HeldOutDefaults
from keel.personas.quality import measure_quality, recommended_layer
from keel.personas.separation import held_out_separations
from keel.personas.standings import role_standings
from keel.settings import MapSettings
from keel.statistics import FEWEST_LEVELS
from keel.types import (
    SOMEWHAT,
    ActivationBatch,
    DefaultPromptQuality,
    Judgement,
    LayerQuality,
    ModelIdentity,
    PersonaMap,
    Prompt,
)
from keel.words import percent

FEWEST_ROLES = 3
# Thresholds of the warnings.
_WIDE_AUC = 0.15
_LOW_AUC = 0.7
_FEW_ROLES = 20
_FEW_ROLLOUTS = 10
_UNSTABLE = 0.8
_CONCENTRATED = 0.2
_AT_THE_END = 0.9
_APART = 0.1
"""By how much the axis of one default prompt lies farther off than any other's."""
_MOST_NAMED = 12


def map_personas(
    prompts: Sequence[Prompt],
    batches: Callable[[], Iterable[ActivationBatch]],
    *,
    identity: ModelIdentity,
    judgements: Mapping[str, Judgement] | None = None,
    tokens: Mapping[str, int] | None = None,
    settings: MapSettings = MapSettings(),
) -> PersonaMap:
    """Vectors, axis and persona space of rollouts whose activations stream from `batches`.

    `batches` is called twice, and must start anew each time; what is kept does not grow with the
    rollouts, but for one number per layer of a sample. Rollouts' ids are those of their prompts.
    Without judgements every rollout of these prompts counts. `tokens` has the number of content
    tokens of each default rollout; without it the map cannot tell which turns are unusually low.

    Raises TooFewSamplesError with fewer than three roles left, or where a half of the questions
    lacks the default or every role; NotFiniteError on NaN or Inf; ModelMismatchError on activations
    of another shape than the model's; UsageError on a label without judgements to take it from.
    """
    if judgements is None and settings.label != "all":
        raise UsageError(
            f"label is {settings.label!r}, and nothing was judged; judge first, or take 'all'"
        )

    def label_of(prompt: Prompt) -> str:
        judgement = None if judgements is None else judgements.get(prompt.id)
        return "unjudged" if judgement is None else judgement.label

    def name_of(prompt: Prompt) -> str:
        is_apart = settings.label == "separate"
        return row_name(prompt.role, label_of(prompt)) if is_apart else prompt.role

    index = RolloutIndex.of(
        prompts, lambda p: judgements is None or settings.counts(label_of(p)), name_of
    )
    gathered = gather_cells(index, batches(), settings.folds_bytes)
    check_shape(gathered, identity)
    every, dropped = _with_enough_rollouts(gathered, settings.min_count)
    # The paper's axis is of the fully played roles; its persona space holds the others, too.
    played = [name for name in every.roles if not name.endswith(SOMEWHAT)]
    cells, _ = _with_enough_rollouts(every.keeping(played), settings.min_count)
    defaults = HeldOutDefaults(cells, index)
    separated = held_out_separations(
        defaults.watching(batches()),
        index.keeping(cells.roles),
        cells,
        seed=settings.seed,
    )
    quality = measure_quality(cells, separated, settings)
    layer = recommended_layer(quality)
    means_NLD = cells.means()
    every_NLD = means_NLD if every is cells else every.means()
    axis = assistant_axis(cells, means_NLD, layer=layer, identity=identity, settings=settings)
    return PersonaMap(
        vectors=role_vectors(every, every_NLD, settings),
        default_LD=means_NLD[0],
        default_count=cells.default_count,
        dropped=dropped,
        axis=axis,
        standings=role_standings(every, axis),
        space=fit_space(every.roles, every_NLD[1:], every_NLD[0], settings.components),
        quality=quality,
        warnings=tuple(map_warnings(cells, quality[layer], dropped)),
        default_answers=None if tokens is None else defaults.answers(tokens),
        axis_folds=axis_folds(cells),
    )


def _with_enough_rollouts(cells: Cells, min_count: int) -> tuple[Cells, dict[str, int]]:
    """The cells of roles with enough rollouts; the other roles with how many they have."""
    kept = [role for role, count in cells.counts.items() if count >= min_count]
    dropped = {role: count for role, count in cells.counts.items() if count < min_count}
    if len(kept) < FEWEST_ROLES:
        best = ", ".join(str(count) for count in sorted(cells.counts.values())[:-4:-1])
        raise TooFewSamplesError(
            f"{len(kept)} of {len(cells.roles)} roles have {min_count} rollouts that count, "
            f"expected {FEWEST_ROLES} or more; the fullest have {best or 'none'}: ask more "
            "questions, lower min_count, or take label 'all'"
        )
    cells = cells.keeping(kept)
    check_default(cells)
    for half in (0, 1):  # what is held out needs both kinds of answers
        default, *roles = cells.counts_NF[:, half::2].sum(1).tolist()
        if not default or not any(roles):
            raise TooFewSamplesError(
                f"every other question has {default} default and {sum(roles)} role answers, "
                "expected some of both; ask default and roles the same questions, two or more"
            )
    return cells, dropped


def map_warnings(cells: Cells, quality: LayerQuality, dropped: dict[str, int]) -> Iterator[str]:
    """A sentence for each reason to trust the map less, at the recommended layer."""
    if dropped:
        named = [f"{role} ({count})" for role, count in dropped.items()][:_MOST_NAMED]
        more = ["…"] if len(dropped) > len(named) else []
        yield (
            f"Left out for want of answers: {', '.join(named + more)}; {len(dropped)} of "
            f"{len(dropped) + len(cells.roles)} roles. Where they are the Assistant-like ones, "
            "the role mean leans to the fantastical."
        )
    if len(cells.roles) < _FEW_ROLES:
        yield f"Only {len(cells.roles)} roles span the map; the paper has 275."
    fewest = min(cells.counts.values())
    if fewest < _FEW_ROLLOUTS:
        yield (
            f"Some roles rest on few answers, the poorest on {fewest}; the paper asks for 10 and "
            "has up to 1,200. A larger scale makes the intervals narrower."
        )
    auc, layer = quality.auc, quality.layer
    if auc.high - auc.low > _WIDE_AUC:
        yield (
            f"At layer {layer} the held-out AUC is known only to lie between {auc.low:.2f} and "
            f"{auc.high:.2f}."
        )
    if auc.value < _LOW_AUC:
        yield (
            f"Even at layer {layer} the axis hardly separates default from role answers (held-out "
            f"AUC {auc.value:.2f})."
        )
    yield from _prompt_warnings(quality.default_prompts)
    if quality.default_percentile < _AT_THE_END:
        yield (
            f"The default stands above {percent(quality.default_percentile)} of the roles, not at "
            "the end of the axis; small models often do so."
        )
    halves = {"questions": quality.split_half_questions, "roles": quality.split_half_roles}
    for name, value in halves.items():
        if value < _UNSTABLE:
            yield f"Axes from two halves of the {name} agree only to a cosine of {value:.2f}."
    roles = len(cells.roles)
    if not quality.is_along_pc1(roles):
        caveat = quality.pc1_caveat(roles)
        yield (
            f"|cos(axis, PC1)| is {quality.cos_pc1.text()}; the axis of a role, taken as the "
            f"default, reaches {quality.cos_pc1_null:.2f} in 5 of 100: PC1 is no evidence for the "
            f"axis here{caveat and f' ({caveat})'}."
        )
    if quality.top_dims_share > _CONCENTRATED:
        yield (
            f"Ten dimensions carry {percent(quality.top_dims_share)} of the axis' squared norm: "
            "massive activations may speak louder than the persona."
        )


def _prompt_warnings(prompts: Sequence[DefaultPromptQuality]) -> Iterator[str]:
    """A sentence for each of the default's system prompts that makes another default of it.

    Where they are too few to say anything about others, that is said, too.
    """
    if 1 < len(prompts) < FEWEST_LEVELS:
        yield (
            f"AUC and d′ hold for the {len(prompts)} system prompts of the default alone: fewer "
            f"than {FEWEST_LEVELS} tell next to nothing of others."
        )
    for number, own in enumerate(prompts):
        others = [other for n, other in enumerate(prompts) if n != number]
        aucs = [other.auc for other in others]
        apart = [own.cosine < other.cosine - _APART for other in others]
        if others and own.cosine < _UNSTABLE and all(apart) and own.auc < min(aucs):
            yield (
                f"The axis of the default's system prompt {number} alone has a cosine of "
                f"{own.cosine:.2f} to that of its other prompts (AUC {own.auc:.2f}, theirs "
                f"{min(aucs):.2f} to {max(aucs):.2f}): under it the model is another default. Look "
                "at its answers, or leave that prompt out."
            )
