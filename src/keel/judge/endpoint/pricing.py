"""What judging will take, before anything is asked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from keel.judge.endpoint.limits import Tokens
from keel.judge.endpoint.prompting import estimate_tokens, make_question, reply_form
from keel.settings import EndpointLimits
from keel.types import Case, Rubric


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


def price_cases(cases: Iterable[Case], rubric: Rubric, limits: EndpointLimits) -> JudgingPrice:
    """What the cases will take by that rubric. Raises what judging them would of bad cases."""
    sent = [make_question(case, rubric).tokens for case in cases]
    tokens = Tokens(sum(sent), len(sent) * _shortest_reply(rubric))
    most = Tokens(sum(sent), len(sent) * limits.max_reply_tokens)
    costs = (limits.cost_usd(one.sent, one.received) for one in (tokens, most))
    return JudgingPrice(len(sent), tokens, most, *costs)


def _shortest_reply(rubric: Rubric) -> int:
    """Tokens of the longest label in its object."""
    names = [one.name for one in rubric.labels] or [str(rubric.low), str(rubric.high)]
    (key,) = reply_form(rubric)["required"]
    return max(estimate_tokens(json.dumps({key: name})) for name in names)
