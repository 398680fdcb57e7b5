"""Names of arms: `none,capped,steered:-0.5,random#2:-0.5@26,prompt`.

Knows no model and no run: whether a setting or a layer exists shows when arms are made.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from keel.errors import UsageError
from keel.types import UNSTEERED

CONTROLS = ("random", "shuffled", "in-span")
"""Kinds of direction that a claim about the axis is held against."""
_KINDS = (UNSTEERED, "capped", "steered", "replaced", *CONTROLS, "prompt", "reprompt")
_KNOWN = (
    "none, capped[:SETTING], steered:STRENGTH[@LAYER], replaced, prompt, reprompt, and as controls "
    "random, shuffled, in-span, each with [#DRAW] and [:STRENGTH[@LAYER]] or [:SETTING]"
)
_STEP = re.compile(r"(?P<strength>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?:@(?P<layer>\d+))?")


@dataclass(frozen=True)
class ArmSpec:
    """One arm, by kind and argument."""

    kind: str
    strength: float | None = None
    """Of a step, in units of the layer's mean residual norm; positive is towards the Assistant."""
    layer: int | None = None
    """Where the step is taken; None is the axis' recommended layer."""
    setting: str = ""
    """Which of the run's floors; empty is the one that calibration chose."""
    draw: int = 1
    """Which of a control's draws, counted from 1."""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise UsageError(f"unknown arm {self.kind!r}; there are {_KNOWN}")
        if self.draw < 1 or (self.draw > 1 and not self.is_control):
            raise UsageError(f"arm {self.name!r}: draws are of controls, and counted from 1")
        if self.kind == "steered" and self.strength is None:
            raise UsageError("arm 'steered' has no strength; say how far, such as steered:-0.5")
        may_step = self.is_control or self.kind == "steered"
        may_bound = self.is_control or self.kind == "capped"
        if (self.is_step and not may_step) or (self.setting and not may_bound):
            raise UsageError(f"arm {self.name!r} is no arm; there are {_KNOWN}")
        if self.strength is not None and not (math.isfinite(self.strength) and self.strength):
            raise UsageError(
                f"arm {self.name!r} takes a step of {self.strength:g}, expected one that is not 0; "
                f"the arm {UNSTEERED!r} takes none"
            )

    @property
    def name(self) -> str:
        """The one way of writing it: `steered:-0.5@26`, `random#2`."""
        head = self.kind if self.draw == 1 else f"{self.kind}#{self.draw}"
        if self.strength is None:
            return f"{head}:{self.setting}" if self.setting else head
        layer = "" if self.layer is None else f"@{self.layer}"
        return f"{head}:{self.strength:+.10g}{layer}"

    @property
    def is_control(self) -> bool:
        """Whether its direction is not the axis."""
        return self.kind in CONTROLS

    @property
    def is_step(self) -> bool:
        """Whether it adds a fixed step, rather than a floor."""
        return self.strength is not None


def parse_arms(text: str) -> tuple[ArmSpec, ...]:
    """The arms named in a comma-separated list, the unsteered one first even if it is not named.

    Raises UsageError for an arm that is not known, and for one named twice.
    """
    specs = [_parse(name.strip()) for name in text.split(",")]
    names = [spec.name for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"arms named twice: {', '.join(twice)}; name each once")
    return (ArmSpec(UNSTEERED), *(spec for spec in specs if spec.kind != UNSTEERED))


def _parse(text: str) -> ArmSpec:
    head, colon, argument = text.partition(":")
    kind, number, draw = head.partition("#")
    if kind not in _KINDS:
        raise UsageError(f"unknown arm {text!r}; there are {_KNOWN}")
    if number and not draw.isdecimal():
        raise UsageError(f"arm {text!r}: {draw!r} is no draw; expected a number, as in random#2")
    if (colon and not argument) or "#" in argument:
        raise UsageError(f"arm {text!r} is written wrongly; there are {_KNOWN}")
    number_drawn = int(draw) if draw else 1
    step = _STEP.fullmatch(argument)
    if step is not None:
        # As its name says it, so that two arms of one name are one arm.
        strength = float(f"{float(step['strength']):.10g}")
        return ArmSpec(
            kind, strength, int(step["layer"]) if step["layer"] else None, draw=number_drawn
        )
    if (kind == "steered" and argument) or "@" in argument:
        raise UsageError(f"arm {text!r}: expected {kind}:STRENGTH[@LAYER], as in {kind}:-0.5@26")
    return ArmSpec(kind, setting=argument, draw=number_drawn)
