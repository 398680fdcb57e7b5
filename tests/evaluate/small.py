"""A small suite for the planted engine, which howls where its persona is low, and its judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from keel.evaluate import Answerer, Arm, Evaluation
from keel.steering import Addition
from keel.testing import FakeEngine
from keel.types import (
    Case,
    Conversation,
    Floor,
    Grader,
    Item,
    Message,
    Rubric,
    RubricLabel,
    Sampling,
    Suite,
    Verdict,
)

RUBRIC = Rubric(
    "howling", 1, "Does it howl?", (RubricLabel("calm", "no"), RubricLabel("howling", "yes"))
)
WORDS = "the sea is wide and the lamp is lit"
PERSONAS = ("ghost", "clerk")
SAMPLING = Sampling(max_new_tokens=8)


def item(persona: str, number: int, **more: object) -> Item:
    """A persona asked something; the planted engine answers the ghost with a howl."""
    return Item(
        f"{persona}/{number}",
        Conversation(
            (Message("system", f"you are a {persona}"), Message("user", f"{WORDS} {number}"))
        ),
        factors={"persona": persona, "request": f"r{number}"},
        **more,  # type: ignore[arg-type]
    )


def suite(requests: int = 5, **more: object) -> Suite:
    """Both personas with each request, and each request alone."""
    items = [item(persona, n, **more) for persona in PERSONAS for n in range(requests)]
    alone = [
        Item(
            f"alone/{n}",
            Conversation((Message("user", f"{WORDS} {n}"),)),
            factors={"request": f"r{n}"},
            is_baseline=True,
        )
        for n in range(requests)
    ]
    return Suite(
        "howls", (*items, *alone), "howling", "howling answers", ("howling",), sampling=SAMPLING
    )


@dataclass
class HowlGrader(Grader):
    """Tells howling answers; of those named it cannot tell."""

    name: str = "ear"
    deaf_to: str = "nothing at all"
    asked: list[Case] = field(default_factory=list)

    def grade(self, cases: Sequence[Case], rubric: Rubric) -> Iterator[Verdict]:
        """The last first: no order is promised."""
        for case in reversed(cases):
            self.asked.append(case)
            said = case.conversation.messages[-1].content
            if case.id.startswith(self.deaf_to):
                yield Verdict(case.id, status="failed", reason="deaf")
            else:
                yield Verdict(case.id, "howling" if "whooo" in said else "calm")


def evaluation(
    answerer: Answerer, items: Sequence[Item], *, seed: int = 0, sampling: Sampling = SAMPLING
) -> Evaluation:
    """Some items, to be answered."""
    asked = Suite(
        "howls", tuple(items), "howling", "howling answers", ("howling",), sampling=sampling
    )
    return Evaluation(asked, (none(),), answerer, HowlGrader(), RUBRIC, seed=seed)


def none() -> Arm:
    return Arm("none", note="nothing is done")


def capped(engine: FakeEngine) -> Arm:
    """A floor at the default's height, under which no persona howls."""
    layer = engine.axis.layer
    floor = Floor(layer, engine.axis.direction[layer], float(engine.axis.default_projection[layer]))
    return Arm("capped", (floor,), note="a floor")


def pushed(engine: FakeEngine) -> Arm:
    """A step away from the Assistant, as long as a gap: everybody howls."""
    layer = engine.axis.layer
    return Arm("steered:-1", (Addition.along(engine.axis, -1.0, layer=layer),), note="a step")
