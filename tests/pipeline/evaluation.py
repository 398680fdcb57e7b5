"""A small evaluation of a tiny model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from keel import pipeline
from keel.engines import Engine
from keel.evaluate import Arm, EngineAnswerer, parse_arms
from keel.pipeline import Evaluation
from keel.store import RunFolder
from keel.types import (
    Case,
    Conversation,
    EvalResult,
    Grader,
    Item,
    Message,
    Rubric,
    RubricLabel,
    Sampling,
    Suite,
    Verdict,
)
from tests.pipeline.small import open_small

RUBRIC = Rubric("odd", 1, "Is it odd?", (RubricLabel("odd", "."), RubricLabel("even", ".")))
ARMS = "none,capped,steered:-0.5"
ITEMS = 10


def small_suite(count: int = ITEMS, follow_up: str = "") -> Suite:
    """Questions to a tiny model; counted are answers with an odd number of letters."""
    items = tuple(
        Item(
            f"i{n}",
            Conversation((Message("user", f"What is {'the ' * (n % 3)}number {n}?"),)),
            {"request": f"r{n}"},
            follow_up=follow_up,
        )
        for n in range(count)
    )
    return Suite("odd", items, "odd", "odd answers", ("odd",), sampling=Sampling(max_new_tokens=6))


@dataclass
class Counting(Grader):
    """Labels by the number of letters."""

    name: str = "counting"
    asked: list[str] = field(default_factory=list)

    def grade(self, cases: Sequence[Case], rubric: Rubric) -> Iterator[Verdict]:
        for case in cases:
            self.asked.append(case.id)
            letters = len(case.conversation.messages[-1].content)
            yield Verdict(case.id, "odd" if letters % 2 else "even")


def evaluate_small(
    model: Path,
    run: Path,
    arms: str = ARMS,
    suite: Suite | None = None,
    name: str = "",
    **more: object,
) -> EvalResult:
    """The small suite on the tiny model."""
    engine = open_small(model)
    folder = RunFolder(run)
    given = pipeline.arms_of(engine, folder.read(), parse_arms(arms))
    grader = more.pop("grader", None)
    asked = small_evaluation(engine, folder, given, suite, grader, name)  # type: ignore[arg-type]
    return pipeline.evaluate(folder, asked, **more)  # type: ignore[arg-type]


def small_evaluation(
    engine: Engine,
    folder: RunFolder,
    arms: tuple[Arm, ...],
    suite: Suite | None = None,
    grader: Grader | None = None,
    name: str = "",
) -> Evaluation:
    """The small suite under arms."""
    answerer = EngineAnswerer(engine, folder.read().axis)
    judge = grader or Counting()
    return Evaluation(suite or small_suite(), arms, answerer, judge, RUBRIC, name=name)


def evaluate_aloud(model: Path, run: Path) -> None:
    """The same with a line for every step, for whoever waits with the axe."""
    evaluate_small(model, run, on_progress=partial(print, flush=True))
