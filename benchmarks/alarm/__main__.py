"""The alarm on real conversations: the fall of each pair, then what is detected of it.

python -m benchmarks.alarm RUN KEPT.jsonl --pairs 100   answer what is missing, then analyse
python -m benchmarks.alarm RUN KEPT.jsonl --pairs 0     analyse what is there
python -m benchmarks.alarm RUN KEPT.jsonl --pairs 0 --page docs/results/smollm2-alarm.md
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.alarm.page import DROP, FAR, RATES, TUNED, Detected, LayerResult, page_of
from benchmarks.alarm.talking import ARMS, CHANGE, TURNS, Talks, talk, talks_of
from keel import open_engine, open_run
from keel.alarm import Alarm, ConversationMeans, TurnMean, estimated, evidence_paths
from keel.settings import STATISTICS, Statistic
from keel.statistics import Clusters, mean_interval, share_of_groups_interval
from keel.types import AssistantAxis

SPLITS = 20
WITHIN = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a section per layer, and writes the page if one is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alarm", description=__doc__)
    parser.add_argument("run")
    parser.add_argument("kept", type=Path)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--layers", type=int, nargs="+", default=[26, 20, 16, 14])
    parser.add_argument("--page", type=Path)
    given = parser.parse_args(arguments)
    run = open_run(given.run)
    if given.pairs:
        engine = open_engine(run.identity.model_id)
        talk(engine, run.axis, given.layers, given.pairs, given.kept, seed=0)
    talks = talks_of(given.kept)
    results = []
    for index, layer in enumerate(talks.layers):
        results.append(Layer(run.axis, talks, index, layer).measured())
        print("\n".join(results[-1].lines()), flush=True)
    if given.page is not None:
        given.page.write_text(page_of(results), encoding="utf-8")
    return 0


@dataclass(frozen=True)
class Trial:
    """Share of halves in which each pair alarmed, by pair."""

    wrong_N: np.ndarray
    """Its unchanged conversation, at any turn."""
    right_N: np.ndarray
    """Its changed one, within three turns of the change and not before."""


@dataclass(frozen=True)
class Layer:
    """All pairs, read at one layer."""

    axis: AssistantAxis
    talks: Talks
    index: int
    layer: int

    def measured(self) -> LayerResult:
        """The paired fall, then what each statistic detects at 5 and 1 %."""
        fall_N = (self.gaps["default"] - self.gaps["changed"])[:, CHANGE:].mean(axis=1)
        kinds = [(f"{rate:.0%}", rate, False) for rate in RATES] + [(TUNED, RATES[0], True)]
        return LayerResult(
            layer=self.layer,
            levels=tuple(self.gaps["default"].mean(axis=0).tolist()),
            fall=mean_interval(fall_N, Clusters({}, {}, len(fall_N))),
            falling=share_of_groups_interval((fall_N > FAR).astype(float)),
            found={
                kind: _detections(
                    {name: self._trial(name, rate, is_tuned=is_tuned) for name in STATISTICS}
                )
                for kind, rate, is_tuned in kinds
            },
            pairs=len(fall_N),
        )

    @cached_property
    def gaps(self) -> dict[str, np.ndarray]:
        """Levels of each arm by pair and turn."""
        return {
            arm: (self.talks.means_NTL[arm][:, :, self.index] - self.blank.zero) / self.blank.gap
            for arm in ARMS
        }

    @cached_property
    def blank(self) -> Alarm:
        """An alarm of this layer before it is fitted."""
        return Alarm(
            layer=self.layer,
            direction=self.axis.direction[self.layer].float(),
            zero=float(self.axis.role_projection[self.layer]),
            gap=float(self.axis.gap[self.layer]),
            expected=(1.0,),
            between=0.0,
            within=1.0,
            token=0.0,
            identity=self.axis.identity,
            rate=RATES[0],
            drop=DROP,
        )

    def _trial(self, name: Statistic, rate: float, *, is_tuned: bool) -> Trial:
        """Fitted to the default conversations of one half of the pairs, tried on the other.

        The threshold is that of the alarm as it is shipped; or, so that statistics are compared at
        the same rate, the quantile of the highest evidence in the half that was fitted to.
        """
        count = len(self.gaps["default"])
        tokens = {arm: np.maximum(self.talks.tokens_NT[arm], 1) for arm in ARMS}
        blank = replace(self.blank, rate=rate)
        if name != "mixture":
            thresholds = {f"{rate:g}": 1.0}
            blank = replace(blank, statistic=name, thresholds=thresholds, horizon=TURNS)
        wrong_N, right_N, tried_N = np.zeros(count), np.zeros(count), np.zeros(count)
        rng = np.random.default_rng(1)
        for _ in range(SPLITS):
            order = rng.permutation(count)
            known, new = order[: count // 2], order[count // 2 :]
            alarm, _ = estimated(blank, [self._means(int(n)) for n in known], horizon=TURNS)
            paths = {arm: evidence_paths(alarm, self.gaps[arm], tokens[arm]) for arm in ARMS}
            at = alarm.threshold()
            if is_tuned:
                at = float(np.quantile(paths["default"][known].max(axis=1), 1 - rate))
            over = {arm: paths[arm][new] >= at for arm in ARMS}
            wrong_N[new] += over["default"].any(axis=1)
            hit = over["changed"][:, CHANGE : CHANGE + WITHIN].any(axis=1)
            right_N[new] += hit & ~over["changed"][:, :CHANGE].any(axis=1)
            tried_N[new] += 1
        tried_N = np.maximum(tried_N, 1)
        return Trial(wrong_N / tried_N, right_N / tried_N)

    def _means(self, pair: int) -> ConversationMeans:
        turns = []
        for turn, blocks in enumerate(self.talks.blocks["default"][pair]):
            eights = tuple(block[self.index] for block in blocks)
            mean = float(self.talks.means_NTL["default"][pair, turn, self.index])
            tokens = int(self.talks.tokens_NT["default"][pair, turn])
            turns.append(TurnMean(turn, mean, tokens, {"16": (), "8": eights}))
        return ConversationMeans(str(pair), tuple(turns))


def _detections(trials: dict[Statistic, Trial]) -> dict[str, Detected]:
    """Each statistic's rates, with intervals over pairs."""
    pairs = Clusters({}, {}, len(trials["turn"].right_N))
    return {
        name: Detected(
            share_of_groups_interval(trial.wrong_N),
            share_of_groups_interval(trial.right_N),
            None
            if name == "turn"
            else mean_interval(trial.right_N - trials["turn"].right_N, pairs, bounds=(-1.0, 1.0)),
        )
        for name, trial in trials.items()
    }


if __name__ == "__main__":
    raise SystemExit(main())
