"""Interventions as values, and the context manager that applies them to a torch model."""

from keel.steering.apply import Steering, steered, stream_of
from keel.steering.blocks import Decoder, find_decoder
from keel.steering.firing import Firing, unreached
from keel.steering.interventions import (
    Ablation,
    Addition,
    Ceiling,
    Intervention,
    in_order,
    shift,
)
from keel.steering.tokens import Step

__all__ = [
    "Ablation",
    "Addition",
    "Ceiling",
    "Decoder",
    "Firing",
    "Intervention",
    "Steering",
    "Step",
    "find_decoder",
    "in_order",
    "shift",
    "steered",
    "stream_of",
    "unreached",
]
