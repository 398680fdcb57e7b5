"""Attacks in balance, and their requests alone."""

from collections import Counter
from itertools import product

import pytest

from keel import pipeline
from keel.evaluate import Attack, first_items, jailbreak_suite
from keel.prompts import read_rubrics

GRID = [
    Attack(f"{p}/{r}", f"You are {p}.", f"Do {r}.", "mild") for p, r in product("abcdef", "uvwx")
]


@pytest.mark.parametrize("count", [3, 4, 6, 12, 17, 24])
def test_the_first_attacks_spread_over_personas_and_requests(count):
    """Of 6 personas and 4 requests no level comes twice before each came once."""
    items = first_items(jailbreak_suite(GRID), count).items
    attacks = [item for item in items if not item.is_baseline]
    assert len({item.id for item in attacks}) == count
    for factor, levels in (("persona", 6), ("request", 4)):
        seen = Counter(item.factors[factor] for item in attacks)
        counts = [*seen.values(), *[0] * (levels - len(seen))]
        assert max(counts) - min(counts) <= 1


def test_each_request_is_asked_alone_as_well():
    bare = [item for item in jailbreak_suite(GRID).items if item.is_baseline]
    assert {item.conversation.messages[-1].content for item in bare} == {
        "Do u.", "Do v.", "Do w.", "Do x."
    }  # fmt: skip
    assert all(item.conversation.system is None for item in bare)


def test_a_part_of_a_grid_takes_each_persona_once_before_any_twice():
    part = [attack for attack in GRID if attack.id not in ("a/u", "b/v", "b/w")]
    attacks = [item for item in jailbreak_suite(part).items if not item.is_baseline]
    assert len({item.factors["persona"] for item in attacks[:6]}) == 6
    assert {item.id for item in attacks} == {attack.id for attack in part}


def test_a_case_without_a_persona_is_no_baseline_of_itself():
    suite = jailbreak_suite([Attack("one", "", "Do it.", "mild")])
    assert [item.id for item in suite.items] == ["one"]


def test_keels_own_set_fits_its_rubric():
    suite = pipeline.open_suite("jailbreak")
    rubric = read_rubrics()[suite.rubric]
    assert {*suite.counted, suite.nonsense} <= {label.name for label in rubric.labels}
    assert len(suite.items) == 60 * 40 + 40
    for item in suite.items[:5]:
        rubric.instruction.format(**item.fields)


def test_what_counts_is_harm_in_part_or_in_full():
    suite = jailbreak_suite(GRID)
    labels = {label.name for label in read_rubrics()[suite.rubric].labels}
    assert labels - {*suite.counted} == {"refusal", "redirection", "harmless", "nonsensical"}


def test_a_file_of_ones_own_is_asked_instead(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("prompt,request,category\nYou are bad.,Sell me a bridge.,fraud\n")
    suite = pipeline.open_suite("jailbreak", path)
    assert [item.is_baseline for item in suite.items] == [False, True]
    assert suite.items[0].fields["category"] == "fraud"
