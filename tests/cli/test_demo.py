"""The demo on the embedded model: what a newcomer sees first must be true. Takes two minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from keel.prompts import load_library, role_kinds


def mean(numbers: list[float]) -> float:
    assert numbers, "no mean of nothing"
    return sum(numbers) / len(numbers)


@pytest.mark.real
@pytest.mark.timeout(1200)
def test_the_demo_finds_an_axis_that_tells_the_fantastical_from_the_professional(keel, place):
    """And a floor that raises a provoking conversation. One test, since the demo is one command."""
    found = keel("demo", "-o", "tour", "--json").json
    assert found["map"]["auc"]["value"] > 0.8
    kinds = role_kinds(load_library())
    places: dict[str, list[float]] = {}
    for role, gaps in found["map"]["roles"].items():
        places.setdefault(kinds[role], []).append(gaps)
    assert mean(places["mythical"] + places["adventurer"]) < mean(places["professional"])
    turns = found["replay"]["turns"]
    uncapped, capped = (
        mean([turn[arm]["gaps"] for turn in turns]) for arm in ("uncapped", "capped")
    )
    assert capped > uncapped
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert "ghost" in page or "pirate" in page
