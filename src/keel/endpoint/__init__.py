"""One client for every model behind an OpenAI-compatible address."""

from keel.endpoint.client import Connection, Endpoint, EndpointClient
from keel.endpoint.embedding import TEXTS_AT_ONCE, embed_at_endpoint
from keel.endpoint.faults import EndpointFaultError
from keel.endpoint.limits import Spending, Tokens, estimate_tokens
from keel.endpoint.requests import ChatRequest, EndpointReply

__all__ = [
    "TEXTS_AT_ONCE",
    "ChatRequest",
    "Connection",
    "Endpoint",
    "EndpointClient",
    "EndpointFaultError",
    "EndpointReply",
    "Spending",
    "Tokens",
    "embed_at_endpoint",
    "estimate_tokens",
]
