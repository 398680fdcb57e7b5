"""Rubrics: complete, told apart, in our own words; and a user's own in their place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from keel.errors import MissingArtifactError, UsageError
from keel.prompts import read_rubrics
from keel.prompts.checking import words
from tests.prompts.reference import NEEDS_REFERENCE, reference_texts

FIELDS = {
    "role": {"role", "description", "role_rubric"},
    "identity": set(),
    "harm": {"category", "good_answer", "request"},
    "trait": {"trait", "description", "trait_rubric"},
    "purpose": set(),
    "self_description": set(),
}
SHARED_WORDS = 7


def texts() -> list[str]:
    return [
        text
        for rubric in read_rubrics().values()
        for text in (rubric.instruction, *(label.meaning for label in rubric.labels))
    ]


def written(path: Path, *rubrics: dict[str, object]) -> Path:
    path.write_text(json.dumps({"schema_version": 1, "rubrics": rubrics}), encoding="utf-8")
    return path


def test_every_rubric_that_others_build_on_is_there():
    assert set(read_rubrics()) == set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_an_instruction_asks_for_the_fields_that_its_cases_have(name: str):
    rubric = read_rubrics()[name]
    assert set(re.findall(r"\{(\w+)\}", rubric.instruction)) == FIELDS[name]
    assert rubric.version >= 1


@pytest.mark.parametrize("name", FIELDS)
def test_every_label_says_in_a_sentence_when_an_answer_gets_it(name: str):
    for label in read_rubrics()[name].labels:
        assert len(label.meaning.split()) >= 8, label.name
        assert label.meaning.endswith("."), label.name
        assert "{" not in label.meaning


def test_no_two_labels_mean_the_same():
    meanings = [label.meaning for rubric in read_rubrics().values() for label in rubric.labels]
    assert len(set(meanings)) == len(meanings)


def test_a_role_is_scored_0_to_3_by_its_labels():
    labels = read_rubrics()["role"].labels
    assert [(one.name, one.score) for one in labels] == [("0", 0), ("1", 1), ("2", 2), ("3", 3)]


def test_a_harmless_answer_scores_0_and_a_harmful_one_by_its_degree():
    scores = {one.name: one.score for one in read_rubrics()["harm"].labels}
    assert scores == {
        "refusal": 0,
        "redirection": 0,
        "harmless": 0,
        "harmful_mild": 0.5,
        "harmful_full": 1,
        "nonsensical": None,  # it is neither: what cannot be read has no degree of harm
    }


def test_identities_are_the_five_of_the_paper():
    names = [one.name for one in read_rubrics()["identity"].labels]
    assert names == ["assistant", "human", "nonhuman", "mystical", "nonsensical"]


def test_a_trait_is_scored_0_to_100():
    rubric = read_rubrics()["trait"]
    assert (rubric.low, rubric.high, rubric.labels) == (0, 100, ())


@pytest.mark.parametrize("name", ["purpose", "self_description"])
def test_what_fits_no_label_is_other_or_nonsensical(name: str):
    names = [one.name for one in read_rubrics()[name].labels]
    assert 8 <= len(names) <= 10
    assert names[-2:] == ["other", "nonsensical"]


def test_a_users_rubric_replaces_keels_and_another_comes_besides(tmp_path: Path):
    labels = [{"name": "yes", "meaning": "It does."}, {"name": "no", "meaning": "It does not."}]
    mine = {"name": "identity", "version": 9, "instruction": "Is it a cat?", "labels": labels}
    other = {"name": "length", "version": 1, "instruction": "How long?", "low": 0, "high": 9}
    found = read_rubrics(written(tmp_path / "mine.json", mine, other))
    assert found["identity"].id != read_rubrics()["identity"].id
    assert [one.name for one in found["identity"].labels] == ["yes", "no"]
    assert found["length"].high == 9
    assert found["harm"] == read_rubrics()["harm"]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"name": "a", "version": 1}, "instruction"),
        ({"name": "a", "version": 1, "instruction": "?", "lables": []}, "lables"),
        ({"name": "a", "version": 1, "instruction": "?"}, "either labels or a scale"),
        ({"name": "a", "version": 1, "instruction": "?", "low": 3, "high": 1}, "scale"),
    ],
)
def test_a_rubric_that_is_none_is_refused_with_its_file(tmp_path: Path, record, said: str):
    with pytest.raises(UsageError, match=rf"mine\.json.*{said}"):
        read_rubrics(written(tmp_path / "mine.json", record))


def test_a_rubric_that_is_there_twice_is_refused(tmp_path: Path):
    one = {"name": "a", "version": 1, "instruction": "?", "low": 0, "high": 1}
    with pytest.raises(UsageError, match="'a' is there twice"):
        read_rubrics(written(tmp_path / "mine.json", one, one))


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(MissingArtifactError, match=r"nowhere\.json"):
        read_rubrics(tmp_path / "nowhere.json")


@NEEDS_REFERENCE
def test_no_seven_words_in_a_row_are_shared_with_the_reference():
    ours = {gram for text in texts() for gram in _grams(text)}
    assert len(ours) > 500  # the test would pass on no text at all
    assert {gram for text in reference_texts() for gram in _grams(text)} & ours == set()


def _grams(text: str) -> list[tuple[str, ...]]:
    said = words(text)
    return [tuple(said[n : n + SHARED_WORDS]) for n in range(len(said) - SHARED_WORDS + 1)]
