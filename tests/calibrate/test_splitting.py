"""What chooses a setting and what decides on it have nothing in common."""

from itertools import product

import pytest

from keel.calibrate import split_items
from keel.errors import TooFewSamplesError, UsageError
from keel.types import Conversation, Item, Message

TALK = Conversation((Message("user", "hello"),))


def item(id: str, **factors: str) -> Item:
    return Item(id, TALK, factors)


def crossed(personas: int, requests: int) -> list[Item]:
    pairs = product(range(personas), range(requests))
    return [item(f"p{p}/r{r}", persona=f"p{p}", request=f"r{r}") for p, r in pairs]


def levels(items, name: str) -> set[str]:
    return {one.factors[name] for one in items}


def test_the_halves_share_no_persona_and_no_request():
    halves = split_items(crossed(10, 8))
    for factor, half in (("persona", 5), ("request", 4)):
        first, second = levels(halves.choosing, factor), levels(halves.deciding, factor)
        assert not first & second
        assert (len(first), len(second)) == (half, half)
    assert (len(halves.choosing), len(halves.deciding), halves.shared) == (20, 20, ())


def test_the_seed_draws_other_halves_and_the_same_seed_the_same():
    def personas(seed: int, given=tuple(crossed(10, 8))) -> frozenset[str]:
        return frozenset(levels(split_items(given, seed=seed).choosing, "persona"))

    assert personas(1) == personas(1, tuple(reversed(crossed(10, 8))))
    assert len({personas(seed) for seed in range(5)}) > 1


def test_where_items_are_few_one_factor_is_split_and_the_other_is_named():
    # 4 × 6: a split of both leaves 2 × 3 = 6 items in a half, less than 8.
    halves = split_items(crossed(4, 6))
    assert not levels(halves.choosing, "request") & levels(halves.deciding, "request")
    assert (len(halves.choosing), len(halves.deciding)) == (12, 12)
    assert halves.shared == ("persona",)


def test_one_half_that_is_too_small_is_reason_enough_to_split_one_factor():
    """Persona a is asked twenty things and b six: split by request too, halves have 10 and 3."""
    asked = [
        item(f"{persona}/{request}/{n}", persona=persona, request=request)
        for (persona, count), request in product((("a", 10), ("b", 3)), "uv")
        for n in range(count)
    ]
    halves = split_items(asked)
    assert sorted((len(halves.choosing), len(halves.deciding))) == [6, 20]
    assert halves.shared == ("request",)


def test_under_a_limit_the_seed_draws_which_items_are_taken():
    """Four of forty from either half: the first ones would be the same for every seed."""
    asked = [item(f"{side}{n}", side=side) for side in "ab" for n in range(40)]
    drawn = [{one.id for one in split_items(asked, limit=8, seed=seed).items} for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_items_that_share_nothing_are_split_one_by_one():
    halves = split_items([item(f"i{n}") for n in range(9)])
    assert (len(halves.choosing), len(halves.deciding)) == (4, 5)
    assert not {i.id for i in halves.choosing} & {i.id for i in halves.deciding}


def test_a_factor_of_one_level_splits_nothing():
    halves = split_items([item(f"i{n}", suite="only") for n in range(8)])
    assert (len(halves.choosing), len(halves.deciding), halves.shared) == (4, 4, ())


def test_the_limit_bounds_both_halves_together():
    halves = split_items(crossed(10, 10), limit=12)
    assert (len(halves.choosing), len(halves.deciding)) == (6, 6)
    whole = split_items(crossed(10, 10))
    assert {i.id for i in halves.choosing} < {i.id for i in whole.choosing}


def test_a_greater_limit_adds_items_and_takes_none_away():
    """So that answers given before are still of use."""
    some = {i.id for i in split_items(crossed(10, 10), limit=12).items}
    assert some < {i.id for i in split_items(crossed(10, 10), limit=20).items}


def test_baselines_belong_to_neither_half():
    alone = Item("r0 alone", TALK, {"request": "r0"}, is_baseline=True)
    assert alone not in split_items([*crossed(6, 6), alone]).items


def test_one_item_cannot_be_halved():
    with pytest.raises(TooFewSamplesError, match="1 items cannot be halved"):
        split_items([item("only")])


def test_a_limit_of_one_is_refused():
    with pytest.raises(UsageError, match="limit is 1 items"):
        split_items(crossed(4, 4), limit=1)
