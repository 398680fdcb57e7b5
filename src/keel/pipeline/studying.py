"""A drift study: conversations advance together, turn by turn and arm by arm, and are summed up.

What is kept at a time is one turn of one group under one arm. A kill loses no more than that, and
the study ends as if nothing had happened: draws depend on conversation and turn alone, and a group
is answered in the same batch again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from keel.drift import Gauge
from keel.endpoint import Endpoint, EndpointClient, Spending
from keel.engines import (
    Completion,
    Engine,
    KeepsPrompts,
    Probe,
    Recording,
    fits_context,
    open_engine,
)
from keel.errors import MissingArtifactError
from keel.evaluate import Arm, parse_arms
from keel.pipeline.axis import arms_of, check_same_model, floors_of
from keel.pipeline.progress import Counter as ProgressCounter
from keel.pipeline.progress import OnProgress, silent
from keel.pipeline.study_embedding import embedder_of
from keel.pipeline.study_harm import HarmJob
from keel.pipeline.study_summary import StudySummary
from keel.prompts import load_user_lines, load_user_personas
from keel.seeds import seed_of
from keel.settings import DriftStudySettings
from keel.store import AnsweredTurns, ArmRecord, EvaluationPlan, Run, RunFolder, StudyFolder
from keel.studies import (
    Auditor,
    AuditorCase,
    EndpointAuditor,
    EngineAuditor,
    StudyPlan,
    plan_study,
    turn_levels,
)
from keel.types import (
    NEUTRAL_DOMAIN,
    Activations,
    AuditedMessage,
    Conversation,
    DriftStudy,
    Message,
    PlannedConversation,
    Prompt,
    StudiedTurn,
    TurnAlone,
    TurnLevel,
)


def study_drift(
    engine: Engine,
    folder: RunFolder,
    settings: DriftStudySettings = DriftStudySettings(),
    *,
    auditor: Auditor | None = None,
    overwrite: bool = False,
    command: str = "",
    on_progress: OnProgress = silent,
) -> DriftStudy:
    """Simulated conversations under every arm, read turn by turn, kept in the run and summed up.

    Goes on where an interrupted call stopped, to the same result. Arms can be added later: only
    what is missing is answered. Raises StaleArtifactError when the study was begun with other
    inputs; with `overwrite` it is done anew.

    `auditor` writes the users' messages in place of the one that the settings name; what it wrote
    is kept as it comes. Raises EndpointError or BudgetError where it can write no more. The budget
    in the settings is that of auditor, judge and embedder together.

    A conversation behind which a full answer would not fit into the model's context ends there.
    """
    spending = Spending(settings.limits)
    auditor = auditor or _auditor_of(settings, spending)
    job = _StudyJob.of(engine, folder, settings, auditor, command)
    embed = embedder_of(settings, job.kept, spending)
    with folder.lock():
        specs = parse_arms(settings.arms)
        if overwrite and job.kept.differences(job.written, job.plan.conversations):
            job.kept.clear()
        harm = HarmJob.of(engine, job.kept, job.plan, settings, spending) if settings.harm else None
        job.begin()
        for arm in arms_of(engine, job.run, specs, seed=settings.seed, on_progress=on_progress):
            record_arm(job.kept, arm)
            job.talk(arm, on_progress)
            if settings.words_alone:
                job.read_alone(arm, on_progress)
            if harm is not None:
                harm.ask(arm, on_progress)
        users = None if job.auditor is None else job.auditor.name
        summary = StudySummary(job.kept, job.plan, job.run, settings, job.layers, users)
        if harm is not None:
            harmful = harm.verdicts(summary.complete_arms, on_progress)
            summary = replace(summary, harmful=harmful)
        study = summary.made(embed, on_progress)
        job.kept.save_result(study)
        return study


def check_study(run: Run, settings: DriftStudySettings) -> None:
    """Raise, before a model is loaded, where the run or the settings lack what a study needs."""
    StudyFolder(RunFolder(run.path), settings.name)
    specs = parse_arms(settings.arms)
    for layer in layers_of(run, settings):
        Gauge(run.axis, layer)
    plan_study(settings, load_user_personas(), load_user_lines())
    for spec in specs:
        if not spec.is_step and (spec.is_control or spec.kind == "capped"):
            floors_of(run, spec.setting or None)
            if not run.has_floors:
                raise MissingArtifactError(
                    f"{run.path} has no floors for the arm {spec.name}; {run.floors_remedy}"
                )


def layers_of(run: Run, settings: DriftStudySettings) -> tuple[int, ...]:
    """The layers at which levels are read.

    A cap lifts what is read behind its first layer, so that with floors the layer before them is
    among these.
    """
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
    auditor: Auditor | None
    plan: StudyPlan
    kept: StudyFolder
    layers: tuple[int, ...]
    written: EvaluationPlan

    @classmethod
    def of(
        cls,
        engine: Engine,
        folder: RunFolder,
        settings: DriftStudySettings,
        auditor: Auditor | None,
        command: str,
    ) -> _StudyJob:
        run = folder.read()
        check_same_model(engine, run.axis)
        check_study(run, settings)
        plan = plan_study(settings, load_user_personas(), load_user_lines())
        layers = layers_of(run, settings)
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
        return cls(engine, run, settings, auditor, plan, kept, layers, written)

    @property
    def recording(self) -> Recording:
        axis = self.run.axis
        return Recording(probes=tuple(Probe(n, axis.direction[n]) for n in self.layers))

    def begin(self) -> None:
        self.kept.begin(self.written, self.plan.conversations)

    def talk(self, arm: Arm, on_progress: OnProgress) -> None:
        """Answer what is missing of every group, one turn of all its conversations at a time."""
        total = len(self.plan.conversations) * self.settings.turns
        counter = ProgressCounter(f"talking: {arm.name}", total, on_progress)
        for number, group in enumerate(self.plan.groups):
            planned = [self.plan.conversations[index] for index in group]
            with self._keeping_prompts():
                self._talk_in_group(number, planned, arm, counter)

    def _keeping_prompts(self) -> AbstractContextManager[None]:
        """Inside, the engine keeps a turn's prompts for the next, where it can be told to."""
        engine = self.engine
        return engine.keeping_prompts() if isinstance(engine, KeepsPrompts) else nullcontext()

    def _prime(self, turns: Sequence[Sequence[Prompt]], arm: Arm) -> None:
        engine = self.engine
        if isinstance(engine, KeepsPrompts):
            for prompts in turns:
                engine.prime(prompts, arm.interventions)

    def _talk_in_group(
        self,
        number: int,
        planned: Sequence[PlannedConversation],
        arm: Arm,
        counter: ProgressCounter,
    ) -> None:
        """One turn of a group's conversations after the other.

        Prompts are computed from where the turn before ended; after a kill those of kept turns are
        computed again first, as they were.
        """
        talks = [_Talk(each, _opening(self.settings)) for each in planned]
        unprimed: list[list[Prompt]] = []
        for turn in range(self.settings.turns):
            turns = self.kept.turns(arm.name, number, turn)
            if turns is None:
                self.kept.reopen()
                self._prime(unprimed, arm)
                unprimed = []
                answered = self._answered(talks, self._messages(talks, turn, arm, number), arm)
                self.kept.commit_turns(arm.name, number, turn, answered)
                turns = answered.turns
            else:
                said = {each.conversation: each.message for each in turns}
                spoken = [talk for talk in talks if talk.planned.id in said]
                texts = [said[talk.planned.id] for talk in spoken]
                unprimed.append(_prompts(spoken, texts, arm))
            by_id = {each.conversation: each for each in turns}
            counter.add(len(planned))
            # A conversation that its user has ended has no turn, and none after it.
            talks = [
                talk.after(by_id[talk.planned.id]) for talk in talks if talk.planned.id in by_id
            ]

    def _messages(
        self, talks: Sequence[_Talk], turn: int, arm: Arm, group: int
    ) -> dict[str, AuditedMessage]:
        """What each user says at a turn, by conversation: as scripted, or as the auditor writes it.

        Neutral conversations are always scripted. What was written before a kill is not asked for
        again, nor is the first message that another arm's conversation has.
        """
        messages = {}
        for talk in talks:
            script = talk.planned.script[turn]
            said = AuditedMessage(talk.planned.id, script.text, script.source, 1)
            messages[talk.planned.id] = said
        if self.auditor is None:
            return messages
        written = self.kept.messages(arm.name, group, turn)
        if turn == 0:
            written = self._openings(group) | written
        messages |= written
        cases = [
            self._case(talk, turn)
            for talk in talks
            if talk.planned.domain != NEUTRAL_DOMAIN and talk.planned.id not in written
        ]
        if cases:
            for message in self.auditor.write(cases):
                self.kept.append_messages(arm.name, group, turn, [message])
                messages[message.conversation] = message
        self.kept.settle_messages(arm.name, group, turn)
        return messages

    def _openings(self, group: int) -> dict[str, AuditedMessage]:
        """First messages as written under any arm, by conversation.

        No answer stands before them, so that they are the same under all, and are not paid for
        again.
        """
        arms = [arm.name for arm in self.kept.arms()]
        return {id: m for arm in arms for id, m in self.kept.messages(arm, group, 0).items()}

    def _case(self, talk: _Talk, turn: int) -> AuditorCase:
        planned, script = talk.planned, talk.planned.script[turn]
        (person,) = (each for each in load_user_personas() if each.id == planned.person)
        return AuditorCase(
            planned.id,
            turn,
            planned.domain,
            person.description,
            planned.topic,
            tuple(message for message in talk.messages if message.speaker != "system"),
            seed_of(self.settings.seed, planned.id, turn),
            script.text,
            script.source,
        )

    def _answered(
        self, talks: Sequence[_Talk], messages: Mapping[str, AuditedMessage], arm: Arm
    ) -> AnsweredTurns:
        talks = [talk for talk in talks if not messages[talk.planned.id].is_end]
        talks = self._fitting(talks, messages, arm)
        said = [messages[talk.planned.id] for talk in talks]
        prompts = _prompts(talks, [message.text for message in said], arm)
        # No arm in the seeds: arms differ by what is done to the model alone.
        seeds = [seed_of(self.settings.seed, t.planned.id, t.turn, "target") for t in talks]
        answers = self._generated(
            prompts, seeds, arm, replace(self.recording, means=True, prompt=True)
        )
        turns = tuple(
            StudiedTurn(
                talk.planned.id,
                talk.turn,
                message.text,
                message.source,
                answer.text,
                answer.token_ids,
                answer.finish,
                self._levels(answer),
                message.attempts,
                message.faults,
            )
            for talk, message, answer in zip(talks, said, answers, strict=True)
        )
        means_BD = mean_rows([answer.activations for answer in answers], self.run, self.layers[0])
        return AnsweredTurns(turns, self.layers[0], means_BD)

    def _fitting(
        self, talks: Sequence[_Talk], messages: Mapping[str, AuditedMessage], arm: Arm
    ) -> list[_Talk]:
        """The conversations in whose context a full answer fits.

        The others end, except at the first turn, which the engine then refuses.
        """
        new_tokens = self.settings.sampling.max_new_tokens
        prompts = _prompts(talks, [messages[talk.planned.id].text for talk in talks], arm)
        return [
            talk
            for talk, prompt in zip(talks, prompts, strict=True)
            if not talk.turn or fits_context(self.engine, prompt, new_tokens=new_tokens)
        ]

    def read_alone(self, arm: Arm, on_progress: OnProgress) -> None:
        """Read each turn but the first without what was said before it, where that is missing."""
        counter = ProgressCounter(
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
                counter.add(len(self.plan.groups[number]))

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
        fresh = self._generated(prompts, seeds, arm, self.recording)
        return tuple(
            TurnAlone(each.conversation, turn, said.get(n, ()), self._levels(fresh[n]))
            for n, each in enumerate(turns)
        )

    def _generated(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], arm: Arm, recording: Recording
    ) -> list[Completion]:
        if not prompts:
            return []
        completions = self.engine.generate(
            prompts,
            self.settings.sampling,
            seed=seeds,
            recording=recording,
            interventions=arm.interventions,
        )
        return sorted(completions, key=lambda completion: completion.index)

    def _levels(self, answer: Completion) -> tuple[TurnLevel, ...]:
        assert answer.projections_TK is not None, "the engine recorded no projections"
        return turn_levels(self.layers, answer.projections_TK, answer.prompt_K)


def _auditor_of(settings: DriftStudySettings, spending: Spending) -> Auditor | None:
    """The auditor that the settings name; None where users are scripted."""
    kind, _, model = settings.auditor.partition(":")
    if kind == "openai":
        endpoint = Endpoint.of(model, settings.auditor_url)
        client = EndpointClient(endpoint, settings.limits, spending)
        client.check()
        return EndpointAuditor(client)
    return EngineAuditor(open_engine(model)) if kind == "local" else None


def record_arm(kept: StudyFolder, arm: Arm) -> None:
    """Write down what an arm does, behind those begun before; refused where it did another."""
    after = 1 + max((known.index for known in kept.arms()), default=-1)
    kept.begin_arm(ArmRecord(arm.name, after, arm.fingerprint, arm.note, arm.warnings, arm.match))


def mean_rows(
    activations: Sequence[Activations | None], run: Run, layer: int
) -> Float[Tensor, "turn hidden"]:
    """Each turn's mean activation at a layer; NaN where nothing was said."""
    means_BD = torch.full((len(activations), run.axis.vector.shape[1]), torch.nan)
    for row, recorded in enumerate(activations):
        if recorded is not None:
            means_BD[row] = recorded.means_LD[layer].float().cpu()
    return means_BD


@dataclass(frozen=True)
class _Talk:
    """One conversation as it grows."""

    planned: PlannedConversation
    messages: tuple[Message, ...]
    turn: int = 0
    """Turns so far."""

    def after(self, turn: StudiedTurn) -> _Talk:
        """The conversation with one turn more, the answer by its sampled tokens."""
        said = Message("user", turn.message), Message("assistant", turn.answer, turn.token_ids)
        return _Talk(self.planned, (*self.messages, *said), self.turn + 1)


def _prompts(talks: Sequence[_Talk], texts: Sequence[str], arm: Arm) -> list[Prompt]:
    """Each conversation with its user's next message, as the arm changes it."""
    return [
        Prompt(
            f"{talk.planned.id}/{talk.turn}",
            arm.change(Conversation((*talk.messages, Message("user", text)))),
        )
        for talk, text in zip(talks, texts, strict=True)
    ]


def _opening(settings: DriftStudySettings) -> tuple[Message, ...]:
    return (Message("system", settings.system),) if settings.system.strip() else ()
