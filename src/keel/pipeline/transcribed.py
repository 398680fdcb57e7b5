"""A drift study of conversations that exist: read, not answered, and summed up like others."""

from __future__ import annotations

from collections import Counter as Occurrences
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from keel.drift import check_answered
from keel.endpoint import Spending
from keel.engines import Engine, Probe, Recording, TurnRecord
from keel.errors import UsageError
from keel.evaluate import parse_arms
from keel.pipeline.axis import arms_of, check_same_model
from keel.pipeline.progress import Counter, OnProgress, silent
from keel.pipeline.study_embedding import embedder_of
from keel.pipeline.study_harm import HarmJob
from keel.pipeline.study_summary import GIVEN, StudySummary
from keel.pipeline.studying import layers_of, mean_rows, record_arm
from keel.settings import DriftStudySettings
from keel.store import AnsweredTurns, ArmRecord, EvaluationPlan, Run, RunFolder, StudyFolder
from keel.studies import StudyPlan, turn_levels
from keel.types import (
    Activations,
    Conversation,
    DriftStudy,
    Message,
    PlannedConversation,
    ScriptedMessage,
    StudiedTurn,
    TurnAlone,
)


@dataclass(frozen=True)
class GivenTurn:
    """What was said to the assistant since its last answer, and this answer."""

    message: str
    answer: Message


def study_transcripts(
    engine: Engine,
    folder: RunFolder,
    by_domain: Sequence[tuple[str, Conversation]],
    settings: DriftStudySettings = DriftStudySettings(),
    *,
    overwrite: bool = False,
    command: str = "",
    on_progress: OnProgress = silent,
) -> DriftStudy:
    """Given conversations, each with the name of its domain, read turn by turn and summed up.

    Each counts as a person of its own. Those of the domain `neutral` are what the others are held
    against; where there are none, what a subject does is not told from what a conversation's
    length does, and a warning says so.
    With `settings.harm` a request follows the last answer of each, under every arm.
    Goes on where an interrupted call stopped. Raises UsageError for a conversation without an
    answer and for arms where nothing is answered, StaleArtifactError when the study was begun
    with other conversations.
    """
    run = folder.read()
    check_same_model(engine, run.axis)
    check_answered([conversation for _, conversation in by_domain])
    check_given(settings)
    kept = StudyFolder(folder, settings.name)
    spending = Spending(settings.limits)
    embed, layers = embedder_of(settings, kept, spending), layers_of(run, settings)
    turns_of = [list(turns_said(conversation)) for _, conversation in by_domain]
    plan = _plan(by_domain, turns_of, settings)
    written = EvaluationPlan(
        identity=engine.identity,
        settings={"layers": list(layers), "words_alone": settings.words_alone, "arm": GIVEN},
        seed=settings.seed,
        batches=plan.groups,
        command=command,
    )
    job = _ReadingJob(engine, run, kept, plan, [talk for _, talk in by_domain], turns_of, layers)
    answered = {talk.id: up_to_last_answer(talk) for _, talk in by_domain}
    with folder.lock():
        if overwrite and kept.differences(written, plan.conversations):
            kept.clear()
        harm = (
            HarmJob.of(engine, kept, plan, settings, spending, answered) if settings.harm else None
        )
        kept.begin(written, plan.conversations)
        kept.begin_arm(ArmRecord(GIVEN, 0, GIVEN))
        job.read(settings.words_alone, on_progress)
        harmful: dict[tuple[str, str], float] = {}
        if harm is not None:
            specs = parse_arms(settings.arms)
            for arm in arms_of(engine, run, specs, seed=settings.seed, on_progress=on_progress):
                record_arm(kept, arm)
                harm.ask(arm, on_progress)
            harmful = harm.verdicts([spec.name for spec in specs], on_progress)
        longest = max(map(len, turns_of))
        as_given = replace(settings, turns=max(2, longest), people=len(by_domain))
        summary = StudySummary(kept, plan, run, as_given, layers, None, is_given=True)
        study = replace(summary, harmful=harmful).made(embed, on_progress)
        kept.save_result(study)
        return study


def check_given(settings: DriftStudySettings) -> None:
    """Raise UsageError where arms are named and nothing is to be answered under them."""
    names = [spec.name for spec in parse_arms(settings.arms)]
    if names != ["none"] and not settings.harm:
        raise UsageError(
            f"arms are {settings.arms!r}, but given conversations are only read; leave out --arms, "
            "or add --harm, which answers a request after each under every arm"
        )


def up_to_last_answer(conversation: Conversation) -> Conversation:
    """The conversation up to its last answer."""
    ends = [n for n, m in enumerate(conversation.messages) if m.speaker == "assistant"]
    return Conversation(conversation.messages[: ends[-1] + 1], conversation.id)


@dataclass(frozen=True)
class _ReadingJob:
    """Given conversations, and what is kept of reading them."""

    engine: Engine
    run: Run
    kept: StudyFolder
    plan: StudyPlan
    talks: Sequence[Conversation]
    turns_of: Sequence[Sequence[GivenTurn]]
    layers: tuple[int, ...]

    def read(self, words_alone: bool, on_progress: OnProgress) -> None:
        """Read what is missing, a group at a time."""
        axis, longest = self.run.axis, max(map(len, self.turns_of))
        probes = tuple(Probe(n, axis.direction[n]) for n in self.layers)
        recording = Recording(probes=probes)
        counter = Counter("reading conversations", len(self.talks), on_progress)
        for number, group in enumerate(self.plan.groups):
            missing = [n for n in range(longest) if self.kept.turns(GIVEN, number, n) is None]
            if missing:
                self.kept.reopen()
                talks = [self.talks[index] for index in group]
                given = [self.turns_of[index] for index in group]
                ids = [self.plan.conversations[index].id for index in group]
                with_means = replace(recording, means=True, prompt=True)
                read = _read(self.engine, talks, given, ids, with_means, self.layers)
                alone = (
                    _alone(self.engine, talks, given, ids, recording, self.layers)
                    if words_alone
                    else []
                )
                for turn in missing:
                    if words_alone and turn:
                        apart = [each for each in alone if each.turn == turn]
                        self.kept.commit_alone(GIVEN, number, turn, apart)
                    here = [each for each in read if each.said.turn == turn]
                    rows = [each.activations for each in here]
                    means_BD = mean_rows(rows, self.run, self.layers[0])
                    turns = tuple(each.said for each in here)
                    answered = AnsweredTurns(turns, self.layers[0], means_BD)
                    self.kept.commit_turns(GIVEN, number, turn, answered)
            counter.add(len(group))


def turns_said(conversation: Conversation) -> Iterator[GivenTurn]:
    said: list[str] = []
    for message in conversation.messages:
        if message.speaker == "user":
            said.append(message.content)
        elif message.speaker == "assistant":
            yield GivenTurn("\n\n".join(said), message)
            said = []


def _plan(
    by_domain: Sequence[tuple[str, Conversation]],
    turns_of: Sequence[Sequence[GivenTurn]],
    settings: DriftStudySettings,
) -> StudyPlan:
    """The conversations under their own ids. Raises UsageError where two have the same."""
    planned = [
        PlannedConversation(
            conversation.id,
            domain,
            conversation.id,
            "",
            tuple(ScriptedMessage(turn.message, GIVEN) for turn in turns),
        )
        for (domain, conversation), turns in zip(by_domain, turns_of, strict=True)
    ]
    ids = [each.id for each in planned]
    twice = next((id for id, count in Occurrences(ids).items() if count > 1), None)
    if twice is not None:
        raise UsageError(
            f"two conversations are called {twice!r}, expected names of their own; rename one file "
            "or conversation_id"
        )
    starts = range(0, len(planned), settings.at_once)
    return StudyPlan(
        tuple(planned),
        tuple(tuple(range(n, min(n + settings.at_once, len(planned)))) for n in starts),
    )


@dataclass(frozen=True)
class _ReadTurn:
    """A given turn as it was read; no activations where it has no token."""

    said: StudiedTurn
    activations: Activations | None


def _read(
    engine: Engine,
    talks: Sequence[Conversation],
    given: Sequence[Sequence[GivenTurn]],
    ids: Sequence[str],
    recording: Recording,
    layers: Sequence[int],
) -> list[_ReadTurn]:
    """Every turn of a group's conversations, each conversation read once."""
    records = {
        (reading.index, record.turn): record
        for reading in engine.read(talks, recording=recording)
        for record in reading.turns
    }
    turns = []
    for row, (id, said) in enumerate(zip(ids, given, strict=True)):
        for turn, each in enumerate(said):
            record = records.get((row, turn), TurnRecord(turn, ()))
            projections_TK = record.projections_TK
            prompt_K = record.prompt_K
            level = () if projections_TK is None else turn_levels(layers, projections_TK, prompt_K)
            answer, token_ids = each.answer.content, record.token_ids
            turns.append(
                _ReadTurn(
                    StudiedTurn(id, turn, each.message, GIVEN, answer, token_ids, "stop", level),
                    record.activations,
                )
            )
    return turns


def _alone(
    engine: Engine,
    talks: Sequence[Conversation],
    given: Sequence[Sequence[GivenTurn]],
    ids: Sequence[str],
    recording: Recording,
    layers: Sequence[int],
) -> list[TurnAlone]:
    """Every later turn with its own message and the system prompt before it, nothing else."""
    apart, names = [], []
    for talk, id, said in zip(talks, ids, given, strict=True):
        opening = tuple(message for message in talk.messages if message.speaker == "system")
        for turn, each in enumerate(said):
            if turn and each.message:
                message = Message("user", each.message)
                apart.append(Conversation((*opening, message, each.answer)))
                names.append((id, turn))
    read = {}
    for reading in engine.read(apart, recording=recording) if apart else ():
        for record in reading.turns:
            assert record.projections_TK is not None, "the engine recorded no projections"
            read[reading.index] = turn_levels(layers, record.projections_TK)
    return [TurnAlone(id, turn, read.get(n, ()), ()) for n, (id, turn) in enumerate(names)]
