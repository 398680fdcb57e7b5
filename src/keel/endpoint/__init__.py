"""One client for every model behind an OpenAI-compatible address."""

from keel.endpoint.client import KEY_VARIABLE, Connection, Endpoint, EndpointClient
from keel.endpoint.faults import EndpointFaultError, NoAnswerError, RequestRefusedError
from keel.endpoint.limits import Spending, Tokens, estimate_tokens
from keel.endpoint.requests import ChatRequest, EndpointReply, ReplySchema

__all__ = [
    "KEY_VARIABLE",
    "ChatRequest",
    "Connection",
    "Endpoint",
    "EndpointClient",
    "EndpointFaultError",
    "EndpointReply",
    "NoAnswerError",
    "ReplySchema",
    "RequestRefusedError",
    "Spending",
    "Tokens",
    "estimate_tokens",
]
