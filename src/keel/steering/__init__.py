"""Interventions as values, and the context manager that applies them to a torch model."""

from keel.steering.apply import Steering, steered, stream_of
from keel.steering.blocks import Decoder, find_decoder
from keel.steering.firing import Firing, check_reached
from keel.steering.interventions import Ablation, Addition, Ceiling, in_order
from keel.steering.tokens import PassTokens
from keel.types import Intervention

__all__ = [
    "Ablation",
    "Addition",
    "Ceiling",
    "Decoder",
    "Firing",
    "Intervention",
    "PassTokens",
    "Steering",
    "check_reached",
    "find_decoder",
    "in_order",
    "steered",
    "stream_of",
]
