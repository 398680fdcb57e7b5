"""How often default answers to unknown questions are marked: `python -m benchmarks.marks RUN...`.

Of the runs' questions (all of one model, with activations kept) so many are drawn, a map is made of
the answers to them alone, and the default answers to all other questions are marked by it; again
and again with other draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean

import numpy as np

from keel.drift import Gauge
from keel.personas import map_personas
from keel.settings import MapSettings
from keel.statistics import Clusters, rate_interval
from keel.store import Run, open_run
from keel.types import ActivationBatch, Interval, Prompt

_QUICK = MapSettings(min_count=1)


class Answers:
    """The answers of several runs to questions, each question's default answers from one run."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.identity = runs[0].identity
        self.prompts: list[Prompt] = []
        self.tokens: dict[str, int] = {}
        self.questions: dict[str, int] = {}
        """Wording -> number."""
        self._runs = runs
        first: dict[int, int] = {}
        for number, run in enumerate(runs):
            for rollout in run.rollouts():
                wording = rollout.prompt.conversation.messages[-1].content
                question = self.questions.setdefault(wording, len(self.questions))
                if rollout.prompt.is_default and first.setdefault(question, number) != number:
                    continue
                id = f"{number}/{rollout.prompt.id}"
                self.prompts.append(replace(rollout.prompt, id=id, question_index=question))
                self.tokens[id] = len(rollout.token_ids)

    def batches(self) -> Iterator[ActivationBatch]:
        """The activations of all, under the ids of the prompts."""
        for number, run in enumerate(self._runs):
            for batch in run.activation_batches():
                ids = tuple(f"{number}/{id}" for id in batch.rollout_ids)
                yield replace(batch, rollout_ids=ids)


def held_out_rate(
    answers: Answers, known: set[int], share: float, layer: int | None
) -> tuple[Interval, Interval | None, int]:
    """Share of default answers to the other questions that is marked, what was stated, the layer.

    The share's interval is over questions.
    """
    persona_map = map_personas(
        [prompt for prompt in answers.prompts if prompt.question_index in known],
        answers.batches,
        identity=answers.identity,
        tokens=answers.tokens,
        settings=_QUICK,
    )
    axis = persona_map.axis
    gauge = Gauge(
        axis,
        axis.layer if layer is None else layer,
        default_answers=persona_map.default_answers,
        false_alarms=share,
    )
    others = {
        prompt.id: prompt
        for prompt in answers.prompts
        if prompt.is_default and prompt.question_index not in known
    }
    marks, factors = [], []
    for batch in answers.batches():
        for id, means_LD in zip(batch.rollout_ids, batch.means_BLD, strict=True):
            if id in others and answers.tokens[id]:
                projection = means_LD[gauge.layer] @ axis.direction[gauge.layer]
                # A turn of the same length whose tokens all stand at its mean.
                tokens_TK = projection.expand(answers.tokens[id], 1)
                reading = gauge.reading(0, tokens_TK, "")
                marks.append(float(reading is not None and reading.is_low))
                factors.append({"question": str(others[id].question_index)})
    return (
        rate_interval(np.array(marks), Clusters.of(factors)),
        gauge.stated_false_alarms,
        gauge.layer,
    )


def main() -> None:
    """Prints a line per draw of questions, then the mean."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.marks", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--questions", type=int, default=40, help="questions that are known")
    parser.add_argument("--draws", type=int, default=10, help="draws of questions")
    parser.add_argument("--false-alarms", type=float, default=0.05)
    parser.add_argument("--layer", type=int, help="else that which each map recommends")
    given = parser.parse_args()
    answers = Answers([open_run(run) for run in given.runs])
    rates, held = [], 0
    for seed in range(given.draws):
        known = set(Random(seed).sample(range(len(answers.questions)), given.questions))
        rate, stated, layer = held_out_rate(answers, known, given.false_alarms, given.layer)
        if stated is None:
            print(f"{given.questions} questions are too few to state a rate", flush=True)
            return
        rates.append(rate.value)
        held += stated.low <= rate.value <= stated.high
        print(
            f"layer {layer}: {rate.text('{:.1%}'.format)} marked, "
            f"{stated.text('{:.1%}'.format)} stated",
            flush=True,
        )
    spread = f"{min(rates):.1%} to {max(rates):.1%}"
    print(f"mean {fmean(rates):.1%} ({spread}); in the stated range {held} of {given.draws}")


if __name__ == "__main__":
    main()
