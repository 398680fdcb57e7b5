"""Red-team requests after the last turn of a study's conversations, answered, kept and judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

from keel.endpoint import Spending
from keel.engines import Engine, fits_context
from keel.evaluate import HARMFUL, Arm, Attack
from keel.judge import open_grader, stop_if_judge_fails
from keel.pipeline.progress import Counter, OnProgress, saved_on_the_way
from keel.pipeline.suites import red_team_requests
from keel.prompts import load_embedder, read_rubrics
from keel.seeds import seed_of, shuffle_key, text_hash
from keel.settings import DriftStudySettings
from keel.store import StudyFolder
from keel.studies import StudyPlan
from keel.types import (
    Case,
    Conversation,
    Grader,
    HarmBranch,
    Message,
    Prompt,
    StudiedConversation,
    Verdict,
)

RUBRIC = "harm"


def requests_of(ids: Sequence[str], seed: int) -> Mapping[str, Attack]:
    """The request to each conversation: all requests in turn, conversations shuffled."""
    shuffled = sorted(red_team_requests(), key=lambda a: shuffle_key(seed, f"harm/{a.request}"))
    dealt = sorted(ids, key=lambda id: shuffle_key(seed, f"harm/{id}"))
    return {id: shuffled[n % len(shuffled)] for n, id in enumerate(dealt)}


@dataclass(frozen=True)
class HarmJob:
    """Requests to a study's conversations, one each, the same under every arm."""

    engine: Engine
    kept: StudyFolder
    plan: StudyPlan
    settings: DriftStudySettings
    grader: Grader
    given: Mapping[str, Conversation] | None = None
    """Conversations by id up to their last answer, where they were given; else the study's own."""

    @classmethod
    def of(
        cls,
        engine: Engine,
        kept: StudyFolder,
        plan: StudyPlan,
        settings: DriftStudySettings,
        spending: Spending,
        given: Mapping[str, Conversation] | None = None,
    ) -> HarmJob:
        """Raises UsageError for a judge that there is not, before anything is answered."""
        limits = settings.limits if settings.judge.startswith("openai:") else None
        grader = open_grader(
            settings.judge,
            url=settings.judge_url,
            engine=engine,
            limits=limits,
            spending=spending,
            load_embedder=load_embedder,
        )
        grader.grade((), read_rubrics()[RUBRIC])
        return cls(engine, kept, plan, settings, grader, given)

    def ask(self, arm: Arm, on_progress: OnProgress) -> None:
        """Answer what is missing of an arm's requests, a group at a time."""
        talks = self._talks(arm.name)
        counter = Counter(f"requests: {arm.name}", len(self.plan.conversations), on_progress)
        for number, group in enumerate(self.plan.groups):
            if self.kept.branches(arm.name, number) is None:
                self.kept.reopen()
                ids = [self.plan.conversations[index].id for index in group]
                spoken = {id: talks[id] for id in ids if id in talks}
                self.kept.commit_branches(arm.name, number, self._branches(spoken, arm))
            counter.add(len(group))

    def verdicts(
        self, arms: Sequence[str], on_progress: OnProgress
    ) -> dict[tuple[str, str], float]:
        """Whether each conversation under each arm ended in harm, 1 or 0.

        Only what is missing is judged. Raises JudgeError where too many verdicts are of no use.
        """
        rubric = read_rubrics()[RUBRIC]
        name = self.grader.verdicts_name(rubric)
        cases = {key: case for arm in arms for key, case in self._cases(arm)}
        by_id = {case.id: case for case in cases.values()}
        known = self.kept.verdicts(name)
        old = [known[id] for id in by_id if id in known and known[id].status != "failed"]
        new = [case for id, case in by_id.items() if id not in {v.case_id for v in old}]
        counter = Counter("judging", len(by_id), on_progress)
        counter.add(len(old))

        def save(verdicts: list[Verdict]) -> None:
            self.kept.append_verdicts(name, [v for v in verdicts if known.get(v.case_id) != v])

        fresh = saved_on_the_way(self.grader.grade(new, rubric) if new else (), save)
        judged: dict[str, Verdict] = {}
        with closing(fresh):
            for verdict in stop_if_judge_fails(chain(old, fresh)):
                counter.add(verdict.case_id not in known)
                judged[verdict.case_id] = verdict
        self.kept.settle_verdicts(name)
        return {
            key: float(judged[case.id].label in HARMFUL)
            for key, case in cases.items()
            if case.id in judged and judged[case.id].status == "ok"
        }

    @property
    def requests(self) -> Mapping[str, Attack]:
        """The request of each conversation."""
        return requests_of([each.id for each in self.plan.conversations], self.settings.seed)

    def _branches(self, talks: Mapping[str, Conversation], arm: Arm) -> tuple[HarmBranch, ...]:
        """Answers to the requests; none where a request and its answer do not fit any more."""
        sampling, requests = self.settings.sampling, self.requests
        prompts = []
        for id, talk in talks.items():
            prompt = Prompt(id, arm.change(talk.with_user(requests[id].request)))
            if fits_context(self.engine, prompt, new_tokens=sampling.max_new_tokens):
                prompts.append(prompt)
        seeds = [seed_of(self.settings.seed, prompt.id, "harm") for prompt in prompts]
        answers = sorted(
            self.engine.generate(prompts, sampling, seed=seeds, interventions=arm.interventions)
            if prompts
            else (),
            key=lambda answer: answer.index,
        )
        return tuple(
            HarmBranch(
                prompt.id,
                sum(message.speaker == "assistant" for message in talks[prompt.id].messages),
                requests[prompt.id].id,
                answer.text,
                answer.token_ids,
                answer.finish,
            )
            for prompt, answer in zip(prompts, answers, strict=True)
        )

    def _talks(self, arm: str) -> Mapping[str, Conversation]:
        """An arm's conversations by id, as they stand after the last answer."""
        if self.given is not None:
            return self.given
        system = self.settings.system
        opening = (Message("system", system),) if system.strip() else ()
        return {
            talk.planned.id: Conversation((*opening, *_said(talk)))
            for talk in self.kept.transcripts(arm)
        }

    def _cases(self, arm: str) -> Iterator[tuple[tuple[str, str], Case]]:
        """An arm's answers as the judge sees them, without the arm's own instructions."""
        requests = self.requests
        talks = self._talks(arm)
        for number in range(len(self.plan.groups)):
            for branch in self.kept.branches(arm, number) or ():
                attack = requests[branch.conversation]
                before = talks[branch.conversation].with_user(attack.request)
                said = before.with_reply(branch.answer)
                words = "\n".join(message.content for message in said.messages)
                digest = text_hash(words, 12)
                case = Case(f"{branch.conversation}#{digest}", said, attack.fields)
                yield (arm, branch.conversation), case


def _said(talk: StudiedConversation) -> Iterator[Message]:
    """Each turn's message and answer, the answer by its sampled tokens."""
    for turn in talk.turns:
        yield Message("user", turn.message)
        yield Message("assistant", turn.answer, turn.token_ids)
