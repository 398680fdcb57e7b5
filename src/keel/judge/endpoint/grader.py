"""A Grader that asks a model behind an OpenAI-compatible address. The key is never an argument."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from keel.errors import MissingExtraError, UsageError
from keel.judge.endpoint.acquaintance import Acquaintance, Endpoint
from keel.judge.endpoint.background import Give, hand_over
from keel.judge.endpoint.ledger import Ledger, Spending
from keel.judge.endpoint.pricing import JudgingPrice, price_cases
from keel.judge.endpoint.prompting import make_question, prompt_hash
from keel.settings import EndpointLimits
from keel.types import Case, Rubric, Verdict

KEY_VARIABLE = "OPENAI_API_KEY"
ADDRESS_VARIABLE = "OPENAI_BASE_URL"

_OPENAI = "https://api.openai.com/v1"
_NO_KEY = "none"
"""What a server is told that was named by its address and asks for no key."""


class EndpointGrader:
    """Asks `model` at `base_url`, many cases at once, within the limits.

    Without an address, the one in OPENAI_BASE_URL, or OpenAI's. Budget and dialect hold for the
    grader's whole life, over all its calls of `grade`.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        limits: EndpointLimits = EndpointLimits(),
        seed: int = 0,
    ) -> None:
        self.model = model
        self.address = base_url or os.environ.get(ADDRESS_VARIABLE) or _OPENAI
        self.limits = limits
        self.seed = seed
        self._known = Acquaintance(Ledger(limits))
        if not urlsplit(self.address).hostname:
            raise UsageError(
                f"address is {self.address!r}, expected one such as http://127.0.0.1:8000/v1"
            )

    @property
    def name(self) -> str:
        """`openai:MODEL@HOST`, with a hash of what else decides what it says."""
        parts = urlsplit(self.address)
        host = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
        told = json.dumps(sorted(self.settings.items()))
        return f"openai:{self.model}@{host}-{hashlib.sha256(told.encode()).hexdigest()[:6]}"

    @property
    def settings(self) -> dict[str, str]:
        """What decides its verdicts besides model and address, for a manifest."""
        return {
            "prompt": prompt_hash(),
            "temperature": "0",
            "seed": str(self.seed),
            "max_reply_tokens": str(self.limits.max_reply_tokens),
        }

    @property
    def spending(self) -> Spending:
        """Requests, tokens and dollars so far."""
        return self._known.ledger.spending

    def price(self, cases: Iterable[Case], rubric: Rubric) -> JudgingPrice:
        """What grading the cases will take; asks nothing and needs no key."""
        return price_cases(cases, rubric, self.limits)

    def grade(self, cases: Sequence[Case], rubric: Rubric) -> Iterator[Verdict]:
        """One verdict per case, each as soon as it is known, in any order.

        Raises, after all verdicts that could be had: EndpointError where the endpoint refuses the
        key, the model or everything, or is down; BudgetError where the budget is used up. Before
        anything is asked: UsageError for a missing key or a case that does not fit the rubric,
        MissingExtraError without the extra.
        """
        with _extra():
            from keel.judge.endpoint.working import Shift
        key = self._key()
        for case in cases:
            make_question(case, rubric)  # what would stop the judging half-way is found now
        endpoint = Endpoint(self.model, self.address, KEY_VARIABLE)
        shift = Shift(endpoint, self.limits, self._known, rubric=rubric, seed=self.seed)

        async def work(give: Give[Verdict]) -> None:
            await shift.work(cases, key, give)

        return hand_over(work, ahead=self.limits.workers)

    def _key(self) -> str:
        key = os.environ.get(KEY_VARIABLE)
        if key is None and self.address == _OPENAI:
            raise UsageError(f"{KEY_VARIABLE} is not set; export it, or give a server's address")
        return key or _NO_KEY


@contextmanager
def _extra() -> Iterator[None]:
    """Where the part is imported that needs the extra."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"judging by a model behind an address needs {error.name}, which is not installed; "
            "pip install 'keel-llm[evaluate]'"
        ) from error
