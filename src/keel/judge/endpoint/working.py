"""Cases -> verdicts, by some workers at once: no worker waits for another's case.

Each takes the next case as soon as it is done with its last. A case that failed is only told once
another has been answered since, so that an endpoint that goes down leaves its cases unasked, for a
later run, rather than failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

import openai

from keel.errors import BudgetError, EndpointError
from keel.judge.endpoint.acquaintance import Acquaintance, Endpoint
from keel.judge.endpoint.background import Give
from keel.judge.endpoint.faults import CaseRefusedError, TryAgainError
from keel.judge.endpoint.parsing import read_reply
from keel.judge.endpoint.prompting import make_question
from keel.judge.endpoint.session import Reply, Session, StoppedError
from keel.settings import EndpointLimits
from keel.types import Case, Rubric, Verdict

_FEWEST_FAILURES = 3
"""In a row, before an endpoint counts as down."""
_LONGEST_REASON = 300


class Shift:
    """One pass over some cases."""

    def __init__(
        self,
        endpoint: Endpoint,
        limits: EndpointLimits,
        known: Acquaintance,
        *,
        rubric: Rubric,
        seed: int,
    ) -> None:
        self._endpoint, self._limits, self._known = endpoint, limits, known
        self._rubric, self._seed = rubric, seed
        self._held: list[Verdict] = []
        self._told = 0

    async def work(self, cases: Iterable[Case], key: str, give: Give[Verdict]) -> None:
        """Give a verdict for every case.

        Raises, once what was in flight has come back: EndpointError, BudgetError, UsageError.
        """
        async with openai.AsyncOpenAI(
            api_key=key,
            base_url=self._endpoint.address,
            timeout=self._limits.timeout_s,
            max_retries=0,  # retries are ours: they count against pace and budget
        ) as client:
            session = Session(client, self._endpoint, self._limits, self._known)
            await self._share_out(session, iter(cases), give)
        reason = session.stopped_by
        if not isinstance(reason, EndpointError):
            await self._tell_held(give)
        if isinstance(reason, BudgetError):
            raise BudgetError(
                f"{reason} after {self._told} verdicts; raise it and grade the cases that have none"
            )
        if reason is not None:
            raise reason

    async def _share_out(
        self, session: Session, cases: Iterator[Case], give: Give[Verdict]
    ) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._worker(session, cases, give))
            await session.opened.wait()
            for _ in range(self._limits.workers - 1):
                group.create_task(self._worker(session, cases, give))

    async def _worker(self, session: Session, cases: Iterator[Case], give: Give[Verdict]) -> None:
        try:
            while session.stopped_by is None and (case := next(cases, None)) is not None:
                await self._settle(session, case, give)
        except StoppedError:
            return
        except Exception as error:  # not a cancelled wait, which is an end like another
            session.stop(error)
        finally:
            session.opened.set()

    async def _settle(self, session: Session, case: Case, give: Give[Verdict]) -> None:
        try:
            verdict = await self._verdict(session, case)
        except CaseRefusedError as fault:
            verdict = _failed(case, fault)
        except TryAgainError as fault:
            self._hold(case, fault)
            return
        await self._tell_held(give)
        await self._tell(verdict, give)

    async def _verdict(self, session: Session, case: Case) -> Verdict:
        """The case's verdict; a reply that names no label is asked for once more."""
        reply = Reply("", is_cut=False)
        for is_again in (False, True):
            self._known.ledger.asked_again += is_again
            question = make_question(case, self._rubric, seed=self._seed, is_again=is_again)
            reply = await session.ask(question)
            label = None if reply.is_cut else read_reply(reply.text, self._rubric)
            if label is not None:
                return Verdict(case.id, label, self._score(label), reason=_short(reply.text))
        cut = f"(cut off at {self._limits.max_reply_tokens} tokens) " if reply.is_cut else ""
        return Verdict(case.id, status="unparsed", reason=cut + _short(reply.text))

    def _score(self, label: str) -> float | None:
        return self._rubric.label(label).score if self._rubric.labels else float(label)

    def _hold(self, case: Case, fault: TryAgainError) -> None:
        """Keep a failure back. Raises EndpointError when it looks like everybody's."""
        self._held.append(_failed(case, fault))
        many = max(_FEWEST_FAILURES, self._limits.workers)
        is_nobody_there = fault.tries is not None and not self._known.has_answered
        if is_nobody_there or len(self._held) >= many:
            raise EndpointError(
                f"{self._endpoint} did not answer: {fault}; check that it runs and its address, "
                f"which often ends in /v1 ({self._told} verdicts were given before)"
            ) from fault

    async def _tell_held(self, give: Give[Verdict]) -> None:
        held, self._held = self._held, []
        for verdict in held:
            await self._tell(verdict, give)

    async def _tell(self, verdict: Verdict, give: Give[Verdict]) -> None:
        await give(verdict)
        self._told += 1


def _failed(case: Case, fault: Exception) -> Verdict:
    return Verdict(case.id, status="failed", reason=_short(str(fault)))


def _short(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_REASON]
