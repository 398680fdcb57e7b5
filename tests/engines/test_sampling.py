"""Nucleus sampling, against its definition worked out by hand and by brute force."""

import pytest
import torch

from keel.engines.decoding import draw
from keel.errors import NotFiniteError
from keel.types import Sampling


def drawn(probabilities, uniform, **sampling):
    logits = torch.tensor(probabilities).log()[None]
    return int(draw(logits, Sampling(1, **sampling), torch.tensor([uniform])))


def test_temperature_zero_takes_the_likeliest():
    assert drawn([0.1, 0.6, 0.3], 0.99, temperature=0) == 1


@pytest.mark.parametrize(
    ("uniform", "token"),
    # Nucleus of 0.8: tokens 1 (0.6) and 2 (0.3); their mass 0.9 is split at 0.6 / 0.9 = 0.667.
    [(0.0, 1), (0.66, 1), (0.67, 2), (0.999999, 2)],
)
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(uniform, token):
    assert drawn([0.1, 0.6, 0.3], uniform, temperature=1.0, top_p=0.8) == token


def test_one_token_is_always_in_the_nucleus():
    assert drawn([0.2, 0.5, 0.3], 0.999, temperature=1.0, top_p=0.01) == 1


def test_top_p_of_one_can_reach_every_token():
    assert drawn([0.2, 0.5, 0.3], 0.9999, temperature=1.0, top_p=1.0) == 0


def test_temperature_sharpens_before_the_nucleus_is_taken():
    # At temperature 0.5 probabilities go as their squares: 0.36 : 0.16 : 0 -> 0.69, 0.31.
    assert drawn([0.6, 0.4, 1e-9], 0.68, temperature=0.5, top_p=1.0) == 0
    assert drawn([0.6, 0.4, 1e-9], 0.70, temperature=0.5, top_p=1.0) == 1


def test_a_flat_distribution_reaches_past_the_likeliest_few_hundred():
    """The short cut takes 256 tokens; a flat nucleus of 0.9 of 1000 holds 900."""
    logits = torch.zeros(400, 1000)
    uniform = torch.linspace(0, 0.999, 400)
    assert len(set(draw(logits, Sampling(1, 1.0, 0.9), uniform).tolist())) == 400


def test_the_short_cut_draws_what_sorting_everything_draws():
    logits = 4 * torch.randn(64, 2000)
    uniform = torch.rand(64)
    mine = draw(logits, Sampling(1, 0.7, 0.9), uniform)
    share, tokens = torch.softmax(logits / 0.7, -1).sort(-1, descending=True)
    kept = torch.where(share.cumsum(-1) - share < 0.9, share, 0.0)
    place = (kept.cumsum(-1) <= (uniform * kept.sum(-1))[:, None]).sum(-1)
    assert torch.equal(mine, tokens.gather(-1, place[:, None])[:, 0])


def test_frequencies_match_the_renormalised_nucleus():
    # 20,000 draws of a share of 2/3: standard error 0.0033; 5 of them: false alarm < 1e-6.
    logits = torch.tensor([0.1, 0.6, 0.3]).log().repeat(20000, 1)
    tokens = draw(logits, Sampling(1, 1.0, 0.8), torch.rand(20000))
    assert float((tokens == 1).float().mean()) == pytest.approx(2 / 3, abs=0.017)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logits_that_are_not_numbers_are_refused(temperature):
    logits = torch.zeros(1, 5)
    logits[0, 3] = torch.nan
    with pytest.raises(NotFiniteError, match="float32"):
        draw(logits, Sampling(1, temperature, 0.9), torch.zeros(1))
