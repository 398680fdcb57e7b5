"""An alarm for the tests of this folder."""

import torch

from keel.alarm import Alarm
from keel.types import ModelIdentity

IDENTITY = ModelIdentity(model_id="tiny", layers=4, hidden_size=128)


def alarm(**changed):
    """Expects 1 gap at every turn; a raw projection of 2 is 0 gaps, one of 6 is 1 gap."""
    direction = torch.zeros(128)
    direction[0] = 1.0
    given = {
        "layer": 0,
        "direction": direction,
        "zero": 2.0,
        "gap": 4.0,
        "expected": (1.0,),
        "between": 0.3,
        "within": 0.2,
        "token": 0.5,
        "identity": IDENTITY,
        "rate": 0.05,
    }
    return Alarm(**{**given, **changed})
