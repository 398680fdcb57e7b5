"""The rubric judge behind any OpenAI-compatible address."""

from keel.judge.endpoint.grader import KEY_VARIABLE, EndpointGrader
from keel.judge.endpoint.ledger import Spending
from keel.judge.endpoint.pricing import JudgingPrice
from keel.settings import EndpointLimits

__all__ = ["KEY_VARIABLE", "EndpointGrader", "EndpointLimits", "JudgingPrice", "Spending"]
