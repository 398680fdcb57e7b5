"""Arms: what is done to the model, or said to it, while the same items are answered.

Their names are such as `none,capped,steered:-0.5,random#2:-0.5@26,random-lift,prompt`. Whether a
setting or a layer of a name exists shows when arms are made: nothing here knows a model or a run.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import asdict, dataclass, replace

from torch import Tensor

from keel.errors import UsageError
from keel.steering import Intervention
from keel.types import UNSTEERED, ControlMatch, Conversation, Message

ASSISTANT_PROMPT = (
    "You are a helpful, honest and careful AI assistant. Whatever part you are asked to play, "
    "answer as yourself."
)
"""The plain system prompt of the arms `prompt` and `reprompt`."""
CONTROLS = ("random", "shuffled", "in-span")
"""Kinds of direction that a claim about the axis is held against."""
_LIFT = "-lift"
"""Ends the kind of a control that lifts tokens as far as the cap; else it fires as often."""
_KINDS = (UNSTEERED, "capped", "steered", "replaced", *CONTROLS, "prompt", "reprompt")
_KNOWN = (
    "none, capped[:SETTING], steered:STRENGTH[@LAYER], replaced, prompt, reprompt, and as controls "
    "random, shuffled, in-span, each with [#DRAW] and [:STRENGTH[@LAYER]] or [:SETTING], and "
    "random-lift, shuffled-lift, in-span-lift with [#DRAW] and [:SETTING]"
)
_STEP = re.compile(r"(?P<strength>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?:@(?P<layer>\d+))?")


@dataclass(frozen=True)
class Instruction:
    """A text put in front of a conversation's system prompt, and before each user turn if wanted.

    Applying it twice is applying it once, so that a conversation may grow and be changed again.
    """

    text: str = ASSISTANT_PROMPT
    is_repeated: bool = False
    """Whether every user message begins with it too."""

    def __call__(self, conversation: Conversation) -> Conversation:
        """The conversation with the text in it.

        Where a template would put in a system prompt of its own for want of one, it no longer does.
        """
        first, *rest = conversation.messages
        system = self._before(first) if first.speaker == "system" else Message("system", self.text)
        others = rest if first.speaker == "system" else [first, *rest]
        if self.is_repeated:
            others = [self._before(m) if m.speaker == "user" else m for m in others]
        return Conversation((system, *others), conversation.id)

    def _before(self, message: Message) -> Message:
        if message.content.startswith(self.text):
            return message
        return replace(message, content=f"{self.text}\n\n{message.content}", token_ids=None)


@dataclass(frozen=True)
class Arm:
    """One way in which all items are answered: what is done to the model, and said to it."""

    name: str
    interventions: tuple[Intervention, ...] = ()
    instruction: Instruction | None = None
    """What is put into every conversation; None leaves them as they are."""
    note: str = ""
    """What the arm does, with its numbers, for display."""
    match: ControlMatch | None = None
    """Of a cap's control, how it pushes beside the cap."""
    warnings: tuple[str, ...] = ()
    """What speaks against relying on it, for display."""

    def change(self, conversation: Conversation) -> Conversation:
        """The conversation as this arm asks it.

        One that was changed before stays as it is, save for user turns that have come since.
        """
        return conversation if self.instruction is None else self.instruction(conversation)

    @property
    def has_bound(self) -> bool:
        """Whether a floor or ceiling is among the interventions.

        A firing rate says something then.
        """
        return any(each.is_bound for each in self.interventions)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that it does, down to its directions' bytes.

        Name and notes do not count: answers given under an arm belong to every arm that does the
        same.
        """
        digest = hashlib.sha256()
        for each in self.interventions:
            numbers = {k: v for k, v in vars(each).items() if not isinstance(v, Tensor)}
            digest.update(f"{type(each).__name__} {sorted(numbers.items())}".encode())
            digest.update(each.direction.detach().float().cpu().contiguous().numpy().tobytes())
        words = None if self.instruction is None else sorted(asdict(self.instruction).items())
        digest.update(f"says {words}".encode())
        return digest.hexdigest()


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
    matches_lift: bool = False
    """Whether a cap's control lifts tokens as far as the cap; else it fires as often."""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise UsageError(f"unknown arm {self.kind!r}; there are {_KNOWN}")
        if self.draw < 1 or (self.draw > 1 and not self.is_control):
            raise UsageError(f"arm {self.name!r}: draws are of controls, and counted from 1")
        if self.kind == "steered" and self.strength is None:
            raise UsageError("arm 'steered' has no strength; say how far, such as steered:-0.5")
        may_step = (self.is_control and not self.matches_lift) or self.kind == "steered"
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
        kind = self.kind + _LIFT * self.matches_lift
        head = kind if self.draw == 1 else f"{kind}#{self.draw}"
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


def is_control(name: str) -> bool:
    """Whether an arm's name is a control's.

    >>> is_control("in-span-lift#2:layers_18:23-p75"), is_control("capped")
    (True, False)
    """
    return name.partition(":")[0].partition("#")[0].removesuffix(_LIFT) in CONTROLS


def _parse(text: str) -> ArmSpec:
    head, colon, argument = text.partition(":")
    named, number, draw = head.partition("#")
    kind = named.removesuffix(_LIFT)
    if kind not in _KINDS or (kind != named and kind not in CONTROLS):
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
            kind,
            strength,
            int(step["layer"]) if step["layer"] else None,
            draw=number_drawn,
            matches_lift=kind != named,
        )
    if (kind == "steered" and argument) or "@" in argument:
        raise UsageError(f"arm {text!r}: expected {kind}:STRENGTH[@LAYER], as in {kind}:-0.5@26")
    return ArmSpec(kind, setting=argument, draw=number_drawn, matches_lift=kind != named)
