"""How low answers usually lie, written plainly from the literature: what `keel.drift` must give.

For answers of one length, as many to each question. Loops in place of arrays.
"""

from __future__ import annotations

from math import sqrt
from statistics import fmean

import numpy as np
from scipy.stats import norm, t


def lowest(answers: list[list[float]], share: float) -> float:
    """A value that `share` of answers to new questions lie below, from answers by question.

    Variances of questions and answers by the analysis of variance of a balanced one-way layout
    (Searle, Casella and McCulloch 1992, Variance Components, ch. 3); the questions' deviations and
    the answers' added in all pairs, each stretched to its variance; widened as a prediction
    interval with Satterthwaite's degrees of freedom (1946, Biometrics 2:110).
    """
    questions, each = len(answers), len(answers[0])
    mean = fmean(value for row in answers for value in row)
    rows = [fmean(row) for row in answers]
    between = each * sum((row - mean) ** 2 for row in rows) / (questions - 1)
    within = sum(
        (value - row) ** 2 for values, row in zip(answers, rows, strict=True) for value in values
    ) / (questions * (each - 1))
    question = max(0.0, (between - within) / each)
    total = question + within
    # Shrunk as a best linear predictor, so that what is left over belongs to the answers.
    shrunk = [question / (question + within / each) * (row - mean) for row in rows]
    left = [
        value - mean - effect
        for values, effect in zip(answers, shrunk, strict=True)
        for value in values
    ]
    sums = [a + b for a in _stretched(shrunk, question) for b in _stretched(left, within)]
    known = (question + within / each) ** 2 / (questions - 1)
    known += (within * (1 - 1 / each)) ** 2 / (questions * (each - 1))
    widened = t.ppf(share, total**2 / known) / norm.ppf(share)
    unsure = (question / questions + within / (questions * each)) / total
    return mean + float(np.quantile(sums, share)) * widened * sqrt(1 + unsure)


def _stretched(values: list[float], variance: float) -> list[float]:
    square = fmean(value**2 for value in values)
    return [value * sqrt(variance / square) if square else 0.0 for value in values]
