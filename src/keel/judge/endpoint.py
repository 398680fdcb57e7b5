"""A Grader that asks a model behind an OpenAI-compatible address, many cases at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from keel.endpoint import (
    Connection,
    Endpoint,
    EndpointClient,
    EndpointReply,
    Spending,
    Tokens,
    estimate_tokens,
)
from keel.judge.parsing import read_reply
from keel.judge.prompting import make_judge_prompt, prompt_hash, reply_schema
from keel.seeds import text_hash
from keel.settings import EndpointLimits
from keel.types import Case, Grader, Rubric, Verdict

_LONGEST_REASON = 300


@dataclass(frozen=True)
class JudgingPrice:
    """Requests, tokens and dollars, were each case answered at the first try.

    Tokens are estimated at four bytes of UTF-8 each. What is received is at least the label in
    its JSON; a model that thinks before it answers needs up to all that one reply may have.
    """

    requests: int
    tokens: Tokens
    """Where replies hold the label and nothing else."""
    most_tokens: Tokens
    """Where every reply is as long as it may be."""
    cost_usd: float | None
    """Of `tokens`; None where prices are not known."""
    most_cost_usd: float | None
    """Of `most_tokens`."""


class EndpointGrader(Grader):
    """Asks `model` at `base_url`; budget and accepted fields hold over all calls of `grade`.

    Without an address, the one in OPENAI_BASE_URL, or OpenAI's. The key is never an argument.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        limits: EndpointLimits = EndpointLimits(),
        seed: int = 0,
        spending: Spending | None = None,
    ) -> None:
        self.endpoint, self.limits, self.seed = Endpoint.of(model, base_url), limits, seed
        self.repeated: list[str] = []
        """Ids of cases sent a second time because the first reply held no label."""
        self._client = EndpointClient(self.endpoint, limits, spending)

    @property
    def name(self) -> str:
        """`openai:MODEL@HOST`, with a hash of what else decides its verdicts."""
        settings = {
            "max_reply_tokens": str(self.limits.max_reply_tokens),
            "prompt": prompt_hash(),
            "seed": str(self.seed),
            "temperature": "0",
        }
        hash = text_hash(json.dumps(list(settings.items())))
        return f"openai:{self.endpoint.model}@{self.endpoint.host}-{hash[:6]}"

    @property
    def spending(self) -> Spending:
        """Requests, tokens and dollars so far."""
        return self._client.spending

    def price(self, cases: Iterable[Case], rubric: Rubric) -> JudgingPrice:
        """What grading the cases will take; asks nothing and needs no key.

        Raises what grading them would of bad cases.
        """
        most = self.limits.max_reply_tokens
        sent = [make_judge_prompt(case, rubric).tokens for case in cases]
        (key,) = reply_schema(rubric)["required"]
        labels = [label.name for label in rubric.labels] or [str(rubric.low), str(rubric.high)]
        shortest = max(estimate_tokens(json.dumps({key: label})) for label in labels)
        tokens, most_tokens = (Tokens(sum(sent), len(sent) * reply) for reply in (shortest, most))
        costs = (counted.cost_usd(self.limits) for counted in (tokens, most_tokens))
        return JudgingPrice(len(sent), tokens, most_tokens, *costs)

    def price_at_most(self, cases: Sequence[Case], rubric: Rubric) -> Mapping[str, float]:
        """Tokens sent; and dollars, where the limits name prices."""
        price = self.price(cases, rubric)
        costs = {"judge, dollars": price.cost_usd, "judge, dollars at most": price.most_cost_usd}
        return {
            "tokens sent to the judge, at most": price.tokens.sent,
            **{what: usd for what, usd in costs.items() if usd is not None},
        }

    def grade(self, cases: Sequence[Case], rubric: Rubric) -> Iterator[Verdict]:
        """One verdict per case, each as soon as it is known, in any order.

        Raises, after all verdicts that could be had: EndpointError where the endpoint refuses the
        key, the model or everything, or is down; BudgetError where the budget is used up. Before
        anything is asked: UsageError for a missing key or a case that does not fit the rubric,
        MissingExtraError without the extra.
        """
        self._client.check()
        for case in cases:
            make_judge_prompt(case, rubric)  # what would stop the judging half-way shows now
        return self._verdicts(cases, rubric)

    def _verdicts(self, cases: Sequence[Case], rubric: Rubric) -> Iterator[Verdict]:
        with self._client.connect() as connection:
            yield from connection.ask_all(
                cases,
                lambda case: self._verdict(connection, case, rubric),
                lambda case, fault: Verdict(case.id, status="failed", reason=_short(fault.said)),
            )

    def _verdict(self, connection: Connection, case: Case, rubric: Rubric) -> Verdict:
        """The case's verdict; a reply that names no label is asked for once more."""
        reply = EndpointReply("", is_cut=False, counted=None)
        for is_again in (False, True):
            if is_again:
                self.repeated.append(case.id)
            prompt = make_judge_prompt(case, rubric, seed=self.seed, is_again=is_again)
            reply = connection.ask(replace(prompt, max_tokens=self.limits.max_reply_tokens))
            label = None if reply.is_cut else read_reply(reply.text, rubric)
            if label is not None:
                score = rubric.label(label).score if rubric.labels else float(label)
                return Verdict(case.id, label, score, reason=_short(reply.text))
        cut = f"(cut off at {self.limits.max_reply_tokens} tokens) " if reply.is_cut else ""
        return Verdict(case.id, status="unparsed", reason=cut + _short(reply.text))


def _short(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_REASON]
