"""Default answers are projected on axes made without them, so that they can say what is unusual."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from keel.drift.usual import UsualAnswers
from keel.personas import map_personas
from tests.personas.synthetic import QUICK, SPREAD, Planted, mapped


def tokens_of(planted: Planted) -> dict[str, int]:
    return {prompt.id: 48 for prompt in planted.prompts}


def test_default_answers_come_with_their_lengths_one_row_each():
    planted = Planted(SPREAD)
    answers = mapped(planted, QUICK, tokens=tokens_of(planted)).default_answers
    assert answers.gaps_NL.shape == (8 * 3, 3)
    assert answers.tokens_N.tolist() == [48] * 24
    assert sorted(answers.questions_N.tolist()) == sorted([*range(8)] * 3)


def test_lengths_are_of_what_a_mean_is_over_where_the_batches_say():
    """An answer of 48 tokens, 40 of them thinking, is a mean over 8: as one of 48 it would vary
    less than it does, and no answer of 8 would be held against it, being shorter than all."""
    planted = Planted(SPREAD)

    def batches():
        for batch in planted.batches():
            yield replace(batch, tokens_B=torch.full((len(batch.rollout_ids),), 8))

    answers = map_personas(
        planted.prompts,
        batches,
        identity=planted.identity,
        tokens=tokens_of(planted),
        settings=QUICK,
    ).default_answers
    assert answers.tokens_N.tolist() == [8] * 24


def test_without_lengths_a_map_knows_no_default_answers():
    assert mapped(Planted(SPREAD), QUICK).default_answers is None


def test_default_answers_are_not_flattered_by_the_axis_that_they_made():
    """Noise alone in 512 dimensions, no truth at all: each answer stands far out on the axis that
    it helped to make, at 1 on average; on one made without it, at 0 within its own noise."""
    planted = Planted(dict.fromkeys(SPREAD, 1.0), hidden=512, noise=1.0, questions=20, seed=3)
    answers = mapped(planted, QUICK, tokens=tokens_of(planted)).default_answers
    assert answers.gaps_NL.mean(0).abs().max() < 0.5


def test_new_default_answers_are_marked_at_the_stated_rate():
    """1,000 default answers to 200 questions in 256 dimensions, and 2,000 others to other
    questions: 5 % of them are marked, within 2 points."""
    known = Planted(SPREAD, questions=200, hidden=256, defaults=5, noise=0.6, seed=1)
    persona_map = mapped(known, QUICK, tokens=tokens_of(known))
    others = Planted(SPREAD, questions=400, hidden=256, defaults=5, noise=0.6, seed=2)
    axis, answers = persona_map.axis, persona_map.default_answers
    direction = axis.direction[0].double().numpy()
    # The others have another truth: put this one's in place of it.
    shift = (common_of(known) - common_of(others)).numpy()
    planted = known.direction.double().numpy() - others.direction.double().numpy()
    gaps = [
        axis.in_gaps(float((mean + shift + planted) @ direction), 0)
        for mean in others.of("default")
    ]
    known_answers = UsualAnswers(
        answers.gaps_NL[:, 0].double().numpy(),
        answers.tokens_N.numpy(),
        answers.questions_N.numpy(),
    )
    lowest = known_answers.lowest(48, 0.05)
    assert np.mean(np.array(gaps) < lowest) == pytest.approx(0.05, abs=0.02)


def common_of(planted: Planted) -> torch.Tensor:
    """What all activations of a synthetic run share at layer 0, its first draws but two."""
    draw = torch.Generator().manual_seed(planted.seed)
    torch.randn(planted.hidden, generator=draw)
    torch.randn(planted.questions, planted.layers, planted.hidden, generator=draw)
    return (5 * torch.randn(planted.layers, planted.hidden, generator=draw))[0].double()
