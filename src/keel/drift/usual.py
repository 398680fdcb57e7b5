"""How low the model's own default answers usually lie, and how precisely a run knows it.

Answers to one question are alike: 200 of them to 40 questions say less of a new question than 200
strangers would. So a new answer is taken to vary with its question, and then by itself, the more
the shorter it is. Knows numbers, nothing of conversations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from keel.statistics import Floats
from keel.types import Interval, TurnLevels

Sizes = NDArray[np.int64]

_FEWEST_QUESTIONS = 10
"""With fewer, the rate on average is no longer within 2 points of 5 %, in simulation."""
_FEWEST_CONVERSATIONS = 10
_MOST_DRAWS = 200_000
_TINY = 1e-24


def lowest_at_turn(levels: TurnLevels, turn: int, share: float) -> float | None:
    """Gap units that `share` (0 to 0.5) of default conversations lie below at a 0-based turn.

    The lower end of Student's prediction interval; None where fewer than 10 conversations are
    known of the turn.
    """
    from scipy.stats import t

    at = min(turn, len(levels.means) - 1)
    count = levels.counts[at]
    if count < _FEWEST_CONVERSATIONS:
        return None
    wide = float(t.ppf(share, count - 1)) * sqrt(1 + 1 / count)
    return levels.means[at] + wide * levels.spreads[at]


@dataclass(frozen=True)
class UsualAnswers:
    """Default answers' mean projections, as a draw of a question and a draw of an answer to it."""

    means_N: Floats
    """Gap units."""
    sizes_N: Sizes
    """Tokens that each is a mean over."""
    questions_N: Sizes
    """Code of the question of each; answers with the same code share it."""

    def lowest(self, size: int, share: float) -> float | None:
        """The value that `share` (0 to 0.5) of answers of this length to new questions lie below.

        The deviations of questions and those of answers within them, each in its own shape, are
        added in all combinations. As in a prediction interval, the distance from the mean is
        widened for what is estimated: by Student's t, with Satterthwaite's degrees of freedom
        (1946, Biometrics 2:110), and the variance of the mean over clusters. None where there are
        too few questions, fewer than 1 / share − 1 answers, or none as short as this.
        """
        if self.rate(share) is None or size < self.sizes_N.min():
            return None
        from scipy.stats import norm, t

        parts = self._parts
        variance = parts.of_answer(min(size, int(self.sizes_N.max())))
        spread_N = parts.answer_N * sqrt(variance)
        drawn = float(np.quantile(np.add.outer(parts.question_Q, spread_N), share))
        wider = float(t.ppf(share, parts.freedom(variance)) / norm.ppf(share))
        return parts.centre + drawn * wider * sqrt(1 + parts.uncertainty(variance))

    def rate(self, share: float) -> Interval | None:
        """The share that is marked, with the range that it may have in truth; None as `lowest`.

        A bound by few answers is off by chance: the share under it has a Beta distribution (Wilks
        1941, Annals of Mathematical Statistics 12:91), of which this is the middle 95 %, here for
        as many independent answers as these are worth. Their design effect is that of normal
        values with as high a correlation within questions.
        """
        questions, count = len(np.unique(self.questions_N)), len(self.means_N)
        if questions < _FEWEST_QUESTIONS or share * (count + 1) < 1 - 1e-9:
            return None
        from scipy.stats import beta, multivariate_normal, norm

        alike = min(self._parts.correlation(int(np.median(self.sizes_N))), 1 - 1e-6)
        z = norm.ppf(share)
        both = float(multivariate_normal.cdf([z, z], cov=[[1, alike], [alike, 1]]))
        low_alike = max(0.0, (both - share**2) / (share * (1 - share)))
        independent = count / (1 + (count / questions - 1) * low_alike)
        ends = beta.ppf([0.025, 0.975], share * (independent + 1), (1 - share) * (independent + 1))
        return Interval(share, *(float(end) for end in ends))

    @cached_property
    def _parts(self) -> _Parts:
        return _Parts.of(self)


@dataclass(frozen=True)
class _Parts:
    """The two ways in which a default answer varies."""

    centre: float
    question_Q: Floats
    """Deviation of each question, as many as there are, of the variance that questions have."""
    answer_N: Floats
    """Deviation of each answer from its question, in its own standard deviations."""
    constant: float
    """Variance of an answer within its question, however long it is."""
    per_token: float
    """Variance that falls as 1 / tokens."""
    answers: int
    answers_per_question: float

    @classmethod
    def of(cls, known: UsualAnswers) -> _Parts:
        """Fits the variances by moments, as an analysis of variance does.

        Questions may have unequal numbers of answers, and answers unequal lengths (Searle, Casella
        and McCulloch 1992, Variance Components, ch. 3).
        """
        means_N, total = known.means_N, len(known.means_N)
        _, codes_N, counts_Q = np.unique(known.questions_N, return_inverse=True, return_counts=True)
        codes_N = codes_N.reshape(-1)
        centred_N = means_N - means_N.mean()
        sums_Q = np.bincount(codes_N, centred_N)
        constant, per_token = _within(centred_N, codes_N, known.sizes_N)
        variance_N = constant + per_token / np.maximum(known.sizes_N, 1)
        within = float(variance_N.mean())
        if total > len(counts_Q):
            between = float((sums_Q**2 / counts_Q).sum()) / (len(counts_Q) - 1)
            typical = (total - float((counts_Q**2).sum()) / total) / (len(counts_Q) - 1)
            question = max(0.0, (between - within) / typical)
        else:  # one answer to each: it is the question that varies, for all one can see
            question, constant = constant, 0.0
            variance_N = variance_N - question
            within = float(variance_N.mean())
        share_Q = question * counts_Q / np.maximum(question * counts_Q + within, _TINY)
        effect_Q = share_Q * sums_Q / counts_Q
        answer_N = (centred_N - effect_Q[codes_N]) / np.sqrt(np.maximum(variance_N, _TINY))
        return cls(
            float(means_N.mean()),
            _scaled(effect_Q, question),
            _sampled(_scaled(answer_N, 1.0), _MOST_DRAWS // len(counts_Q)),
            constant,
            per_token,
            total,
            total / len(counts_Q),
        )

    def of_answer(self, size: int) -> float:
        """Variance within a question of answers with so many tokens."""
        return self.constant + self.per_token / max(size, 1)

    def correlation(self, size: int) -> float:
        """Of two answers of this length to one question."""
        return self._question / max(self._question + self.of_answer(size), _TINY)

    def uncertainty(self, answer: float) -> float:
        """Variance of the mean of all that is known, in variances of a single new answer."""
        mean = self._question / len(self.question_Q) + answer / self.answers
        return mean / max(self._question + answer, _TINY)

    def freedom(self, answer: float) -> float:
        """Degrees of freedom of the variance of a new answer."""
        questions, each = len(self.question_Q), self.answers_per_question
        between = (self._question + answer / each) ** 2 / (questions - 1)
        within = (answer * (1 - 1 / each)) ** 2 / max(1, self.answers - questions)
        return max(1.0, (self._question + answer) ** 2 / max(between + within, _TINY))

    @property
    def _question(self) -> float:
        return float((self.question_Q**2).mean())


def _within(centred_N: Floats, codes_N: Sizes, sizes_N: Sizes) -> tuple[float, float]:
    """Variance within questions that all answers have, and that of a single token.

    From squared distances to the mean of the question, each against what it is expected to be; to
    the mean of all where every question has one answer.
    """
    from scipy.optimize import nnls

    if len(np.unique(codes_N)) == len(codes_N):
        codes_N = np.zeros_like(codes_N)
    counts_N = np.bincount(codes_N)[codes_N]
    distances_N = centred_N - np.bincount(codes_N, centred_N)[codes_N] / counts_N
    per_token_N = 1 / np.maximum(sizes_N, 1)
    shared_N = np.bincount(codes_N, per_token_N)[codes_N] / counts_N**2
    columns_NK = np.stack(
        [1 - 1 / counts_N, per_token_N * (1 - 2 / counts_N) + shared_N][
            : 1 + (np.ptp(sizes_N) > 0)
        ],
        axis=1,
    )
    parts_K, _ = nnls(columns_NK, distances_N**2)
    return float(parts_K[0]), float(parts_K[1]) if len(parts_K) > 1 else 0.0


def _sampled(values_N: Floats, most: int) -> Floats:
    """At most so many of the values, at random: their order is that of questions and prompts."""
    if len(values_N) <= most:
        return values_N
    return np.random.default_rng(0).choice(values_N, max(1, most), replace=False)


def _scaled(values_N: Floats, variance: float) -> Floats:
    """The values about their mean, stretched to this mean square."""
    centred_N = values_N - values_N.mean()
    square = float((centred_N**2).mean())
    if square <= _TINY:
        return np.zeros_like(centred_N)
    scaled_N: Floats = centred_N * sqrt(variance / square)
    return scaled_N
