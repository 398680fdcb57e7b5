"""A seed per prompt: an answer's draws are its own."""

import pytest

from keel.errors import UsageError
from tests.engines.small import SAMPLING, engine, prompts


def said(made, asked, seed):
    found = made.generate(asked, SAMPLING, seed=seed)
    return {asked[one.index].id: one.token_ids for one in found}


def test_with_a_seed_of_its_own_an_answer_is_the_same_alone_and_in_company():
    made, asked = engine(), prompts()
    seeds = range(10, 10 + len(asked))
    alone = {}
    for prompt, seed in zip(asked, seeds, strict=True):
        alone |= said(made, [prompt], seed)
    assert said(made, asked, list(seeds)) == alone
    assert said(made, asked[::-1], list(seeds)[::-1]) == alone


def test_a_seed_for_all_gives_every_row_its_own_number():
    """One seed shared would give the same prompt the same answer in every row."""
    made, first = engine(), prompts()[0]
    shared = [one.token_ids for one in made.generate([first, first], SAMPLING, seed=3)]
    owned = [one.token_ids for one in made.generate([first, first], SAMPLING, seed=[3, 3])]
    assert shared[0] != shared[1]
    assert owned[0] == owned[1]


def test_as_many_seeds_as_prompts_or_one():
    with pytest.raises(UsageError, match=r"2 seeds for \d prompts"):
        list(engine().generate(prompts(), SAMPLING, seed=[1, 2]))
