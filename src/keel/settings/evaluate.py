"""What is evaluated, under which arms."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from keel.errors import UsageError
from keel.settings.flags import JUDGING, MODEL, TASKS, Flag
from keel.settings.judging import GraderSettings


@dataclass(frozen=True)
class CapabilitySettings:
    """Settings of the paper by default: no examples in the prompt, seed 42, greedy as tasks say."""

    limit: int | None = None
    """How many items of each task, the first ones (of MMLU-Pro: of each subject); None: all."""
    seed: int = 42
    """Decides which examples and orders a task draws."""
    is_chat: Annotated[bool | None, Flag("--chat/--no-chat", TASKS)] = None
    """Whether items are asked as a user's message of the chat template; else where there is one.
    """
    batch_size: Annotated[int | None, Flag("--batch-size", TASKS, least=1)] = None
    """Items answered together, in lm-eval's own order; else as many as fit in memory."""
    max_new_tokens: int | None = None
    """Longest answer, where it is less than the task allows; None: as the task says."""
    allows_code: Annotated[bool, Flag("--allow-code", TASKS)] = False
    """Whether tasks may run Python code that the model wrote."""

    def __post_init__(self) -> None:
        for name in ("limit", "batch_size", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}, expected 1 or more")


@dataclass(frozen=True)
class EvaluateSettings:
    """Which items are answered under which arms, by which model, and who judges."""

    arms: Annotated[str, Flag("--arms")] = (
        "none,capped,random,random-lift,random-lift#2,random-lift#3"
    )
    """What is done to the model, comma-separated: none, capped[:SETTING],
    steered:STRENGTH[@LAYER], replaced, prompt, reprompt, and the controls random, shuffled,
    in-span, each [#DRAW][:STRENGTH or :SETTING], and with -lift [#DRAW][:SETTING]."""
    limit: Annotated[int | None, Flag("--limit", least=1)] = None
    """Items to take, the first ones; else all."""
    data: Annotated[Path | None, Flag("--data")] = None
    """Your own items: red-team cases, or tasks' as TASK=FILE,TASK=FILE."""
    requests_per_answer: Annotated[int | None, Flag("--requests-per-answer", least=1)] = None
    """Of drift-harm: requests after each first answer, of every role to every question; as many as
    there are make the paper's cross. Else ten items of each role."""
    name: Annotated[str, Flag("--name")] = ""
    """Name under which the evaluation is kept; else the suite's."""
    max_new_tokens: Annotated[int | None, Flag("--max-new-tokens", least=1)] = None
    """Longest answer, in tokens; else the suite's own."""
    temperature: Annotated[float | None, Flag("--temperature", least=0)] = None
    """How freely tokens are drawn, 0 is greedy; else the suite's own."""
    seed: Annotated[int, Flag("--seed", least=0)] = 0
    """Decides every random draw."""
    tasks: Annotated[tuple[str, ...], Flag("--task", TASKS, also=("--tasks",))] = ()
    """Tasks of the suite `capability`, comma-separated; else the paper's four."""
    on: Annotated[str | None, Flag("--on", MODEL, metavar="MODEL")] = None
    """Another model of that shape, steered along the run's axis in place of its own."""
    endpoint: Annotated[str | None, Flag("--endpoint", MODEL, metavar="URL")] = None
    """Address of a served model that answers."""
    endpoint_model: Annotated[str | None, Flag("--endpoint-model", MODEL)] = None
    """The served model's name; else the run's."""
    judge: Annotated[str | None, Flag("--judge", JUDGING)] = None
    """heuristic, self, channel, local:MODEL, channel:MODEL, openai:MODEL or clusters[:N]; else
    heuristic, and clusters for the base suites."""
    grader: GraderSettings = field(default_factory=GraderSettings)
