"""Interventions as values, and the contexts that apply them to a torch model and record it."""

from keel.steering.apply import Firing, Steering, check_reached, steered
from keel.steering.blocks import Decoder, check_ran, find_decoder
from keel.steering.interventions import Ablation, Addition, Ceiling, in_order
from keel.steering.passes import PassTokens, first_of_rows
from keel.steering.recording import Probe, StreamRecord, StreamSums, recorded
from keel.steering.streams import StreamLayout
from keel.types import Intervention

__all__ = [
    "Ablation",
    "Addition",
    "Ceiling",
    "Decoder",
    "Firing",
    "Intervention",
    "PassTokens",
    "Probe",
    "Steering",
    "StreamLayout",
    "StreamRecord",
    "StreamSums",
    "check_ran",
    "check_reached",
    "find_decoder",
    "first_of_rows",
    "in_order",
    "recorded",
    "steered",
]
