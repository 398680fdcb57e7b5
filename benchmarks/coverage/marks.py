"""Studies of marks: default answers of a run, planted, and new ones held against them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch
from numpy.random import Generator
from scipy.stats import norm

from benchmarks.coverage.studies import Known, Statement, Study
from keel.drift import Gauge
from keel.types import AssistantAxis, DefaultAnswers, ModelIdentity

_QUESTION, _ANSWER, _TOKEN = 0.7, 0.4, 3.0
"""Standard deviations in gaps: of questions, of answers to one, and of a token, about as in a
model of 135M."""
_PROMPTS = 5
_NEW_TOKENS = 48
_AXIS = AssistantAxis(
    vector=torch.tensor([[1.0, 0.0]]),
    layer=0,
    default_projection=torch.tensor([1.0]),
    role_projection=torch.tensor([0.0]),
    residual_norm=torch.tensor([1.0]),
    identity=ModelIdentity("planted", 1, 2),
)


def studies() -> Iterator[Study]:
    """Runs with few to many questions; too few for any mark among them."""
    for questions in (8, 20, 40, 110):
        words = f"{questions} questions × {_PROMPTS} default prompts"
        yield Study("marks", words, partial(_marks, questions), 400)


def _marks(questions: int, rng: Generator) -> Mapping[str, Statement]:
    """Whether a new default answer to a new question is marked, and the rate that Keel states.

    Being marked counts as the rejection of a true null; the truth of the stated range is the share
    of all new answers of that length that lie under this run's bound.
    """
    question_N = np.arange(questions).repeat(_PROMPTS)
    tokens_N = rng.integers(16, 65, len(question_N))
    gaps_N = 1 + _QUESTION * rng.normal(size=questions)[question_N]
    gaps_N += rng.normal(size=len(tokens_N)) * _spread(tokens_N)
    known = DefaultAnswers(
        torch.from_numpy(gaps_N).float()[:, None],
        torch.from_numpy(tokens_N),
        torch.from_numpy(question_N),
    )
    gauge = Gauge(_AXIS, 0, default_answers=known)
    spread = float((_QUESTION**2 + _spread(np.array(_NEW_TOKENS)) ** 2) ** 0.5)
    new = 1 + spread * rng.normal()
    reading = gauge.reading(0, torch.full((_NEW_TOKENS, 1), new), "")
    stated, rate = "stated range of the rate of marks", "a new default answer is marked"
    if reading is None or reading.lowest_usual_gaps is None or gauge.stated_false_alarms is None:
        return {rate: None, stated: None}
    truth = float(norm.cdf((reading.lowest_usual_gaps - 1) / spread))
    return {rate: 0.0 if reading.is_low else 1.0, stated: Known(gauge.stated_false_alarms, truth)}


def _spread(tokens: np.ndarray) -> np.ndarray:
    """Standard deviation of answers to one question, by their length."""
    return np.asarray((_ANSWER**2 + _TOKEN**2 / tokens) ** 0.5)
