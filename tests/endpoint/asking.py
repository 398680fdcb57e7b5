"""Cases and a judge for tests against the misbehaving server."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from keel.errors import KeelError
from keel.judge import EndpointGrader
from keel.settings import EndpointLimits
from keel.types import Case, Conversation, Message, Rubric, RubricLabel, Verdict
from tests.endpoint.server import Answer, Asked, Served, say

TONE = Rubric(
    "tone",
    1,
    "Say how the answer sounds.",
    labels=(RubricLabel("warm", "It is kind.", 1.0), RubricLabel("cold", "It is not.", 0.0)),
)
SCALE = Rubric("warmth", 1, "Say how warm the answer is.", low=0, high=3)


def case(number: int) -> Case:
    words = (Message("user", "hello"), Message("assistant", f"answer-{number}"))
    return Case(str(number), Conversation(words))


def cases(count: int) -> list[Case]:
    return [case(number) for number in range(count)]


def label_of(number: str) -> str:
    return "warm" if int(number) % 2 else "cold"


def truly(_number: int, asked: Asked) -> Answer:
    """The right label of every case."""
    return say(label_of(asked.case))


def grader(served: Served | str, **limits) -> EndpointGrader:
    """One that loses no time in waiting."""
    quick = {"first_wait_s": 0.01, "longest_wait_s": 0.05, "timeout_s": 30, "workers": 4}
    address = served if isinstance(served, str) else served.address
    return EndpointGrader("judge", address, limits=EndpointLimits(**{**quick, **limits}))


def until_error(verdicts: Iterable[Verdict]) -> tuple[list[Verdict], KeelError | None]:
    """All that comes, and the error of ours that it ended with."""
    got: list[Verdict] = []
    with closing(verdicts):
        try:
            got.extend(verdicts)  # what came before an error stays
        except KeelError as error:
            return got, error
    return got, None
