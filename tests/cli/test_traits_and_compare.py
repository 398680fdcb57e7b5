"""Traits extracted, runs compared and read again, as somebody types it."""

import re
from pathlib import Path

import pytest

from keel.cli import run as run_command
from keel.store import open_run
from keel.testing import save_tiny_model
from tests.cli.commands import CPU

SIZES = ("--role-count", "4", "--trait-count", "4", "--question-count", "4", "--max-new-tokens")
LENIENT = ("--min-pairs", "1", *CPU)
"""A tiny random model tells its prompts apart now and then only."""


@pytest.fixture(scope="module")
def runs(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same roles and traits with answers of two lengths. To be read only."""
    place = tmp_path_factory.mktemp("runs")
    found = place / "one", place / "two"
    for path, tokens in zip(found, ("6", "9"), strict=True):
        arguments = ["extract", str(model), "-o", str(path), "--what", "both", *SIZES, tokens]
        assert run_command([*arguments, *LENIENT]) == 0
    return found


def test_both_spaces_are_told_of_in_words_and_in_json(keel, model: Path, runs: tuple[Path, Path]):
    again = ("extract", model, "-o", runs[0], "--what", "both", *SIZES, "6", *LENIENT)
    words = " ".join(keel(*again).out.split())
    assert "The Assistant Axis" in words
    assert "Trait space" in words
    told = keel(*again, "--json").json["traits"]
    kept = open_run(runs[0]).trait_map
    assert list(told["traits"]) == list(kept.traits)
    for ends in told["ends_of_components"]:  # of four traits: the first five were the last five
        assert len(ends["low"]) == len(ends["high"]) == len(kept.traits) // 2
        assert not {*ends["low"]} & {*ends["high"]}
    one = told["traits"][kept.traits[0]]
    assert one["axis_cosine"]["value"] == pytest.approx(
        float(kept.axis.cosine_LN[kept.layer, 0]), abs=1e-6
    )
    assert len(one["axis_cosine_by_layer"]) == 4


def test_the_report_has_both_spaces(keel, runs: tuple[Path, Path]):
    page = keel("report", runs[0], "--markdown").out
    assert "## Persona space" in page
    assert "## Trait space" in page


def test_runs_are_compared_in_words_in_json_and_on_a_page(
    keel, runs: tuple[Path, Path], place: Path
):
    words = " ".join(keel("compare", *runs, "-o", "pages/both.html").out.split())
    assert "Over 4 roles in common, loadings on PC1 correlate at" in words
    assert "the default moved by" in words
    for what in ("roles", "traits"):
        most, least = re.search(
            rf"Among {what} it went most towards (.*?), and most away from (.*?)\.", words
        ).groups()
        assert not {*re.findall(r"\w+", most)} & {*re.findall(r"\w+", least)} - {"and"}
    html = Path("pages/both.html").read_text(encoding="utf-8")
    assert "figure-components-1" in html
    assert "figure-layers-1" in html
    assert "figure-shift-roles-1" in html
    assert 'src="http' not in html
    pair = keel("compare", *runs, "--json").json["pairs"][0]
    assert pair["first"] == str(runs[0])
    first = pair["roles"]["components"][0]
    assert first["low"] <= first["value"] <= first["high"]
    # With four names t of two degrees of freedom: |r| = 0.950 (tables of Pearson's r).
    assert pair["roles"]["null"] == pytest.approx(0.950, abs=1e-3)
    assert pair["roles"]["partner_null"] > pair["roles"]["null"]
    assert len(pair["axes"]) == 4
    assert len(pair["shift"]["roles"]) == 4


def test_a_run_cannot_be_compared_with_itself_or_with_nothing(keel, runs: tuple[Path, Path]):
    assert "expected two or more" in keel("compare", runs[0]).err
    assert "given twice" in keel("compare", runs[0], runs[0]).err
    found = keel("compare", runs[0], "nowhere")
    assert (found.code, found.out) == (3, "")
    assert "nowhere is no run folder" in found.err


def test_the_same_answers_are_read_by_another_model_to_a_run_of_its_own(
    keel, runs: tuple[Path, Path], place: Path
):
    other = save_tiny_model(place / "other", "gpt2")
    found = keel("extract", other, "-o", "read", "--rollouts-from", runs[0], *LENIENT)
    assert found.code == 0, found.err
    mine, source = open_run("read"), open_run(runs[0])
    texts = {rollout.prompt.id: rollout.text for rollout in source.rollouts()}
    assert {rollout.prompt.id: rollout.text for rollout in mine.rollouts()} == texts
    assert mine.identity.model_id == str(other)
    assert mine.has_map
    assert keel("compare", runs[0], "read").code == 0


def test_what_says_how_to_ask_is_refused_where_nothing_is_asked(
    keel, model: Path, runs: tuple[Path, Path], place: Path
):
    arguments = ("extract", model, "-o", "read", "--rollouts-from", runs[0])
    found = keel(*arguments, "--role-count", "4", "--max-new-tokens", "3", "--what", "both")
    assert found.code == 3
    for option in ("--role-count", "--max-new-tokens", "--what"):
        assert option in found.err
    assert not Path("read").exists()


def test_another_seed_can_ask_the_same_questions_of_the_same_roles(keel, model: Path, place: Path):
    """Two maps can be held against each other only where they name the same characters."""
    sizes = ("--role-count", "4", "--question-count", "4", "--max-new-tokens", "6", *CPU)
    for name, *seeds in (
        ("first",),
        ("again", "--seed", "1", "--choice-seed", "0"),
        ("other", "--seed", "1"),
    ):
        assert keel("extract", model, "-o", name, *sizes, *seeds).code == 0
    first, again, other = (
        {found.prompt.id: found.text for found in open_run(place / name).rollouts()}
        for name in ("first", "again", "other")
    )
    assert again.keys() == first.keys()
    assert again != first
    assert other.keys() != first.keys()
