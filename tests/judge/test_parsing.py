"""A reply is read where it names one label or number, and not where it could mean two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keel.judge.parsing import read_reply
from keel.types import Rubric, RubricLabel


def labelled(*names: str) -> Rubric:
    return Rubric("r", 1, "", labels=tuple(RubricLabel(name, "") for name in names))


FOUR = Rubric("role", 1, "", low=0, high=3)
HUNDRED = Rubric("trait", 1, "", low=0, high=100)
DIGITS = labelled("0", "1", "2", "3")
HARM = labelled("refusal", "redirection", "harmless", "harmful_mild", "harmful_full")
PLAIN_HARM = labelled("harmful", "harmless")
IDENTITY = labelled("assistant", "human", "nonhuman", "mystical", "nonsensical")

NUMBERS = {
    "2": "2",
    " 2.\n": "2",
    "2.0": "2",
    "**2**": "2",
    '"2"': "2",
    "2/3": "2",
    "2 / 3": "2",
    "2 out of 3": "2",
    "3/3": "3",
    "3": "3",
    "On a scale from 0 to 3, this scores 2": "2",
    "On a scale of 0-3, I would give this answer a 3.": "3",
    "Between 0 and 3: 1": "1",
    "0-3: 3": "3",
    "0–3? I say 0": "0",
    "I give 2 out of 3": "2",
    "Score: 2": "2",
    "Final score: **2**": "2",
    "The score is 2": "2",
    "It does not play the role: 0": "0",
    "The answer does not play the role, so 0": "0",
    '{"score": 2}': "2",
    '{"score": "2"}': "2",
    '{"score": 2.0}': "2",
    '{"Score": 2}': "2",
    '```json\n{"score": 2}\n```': "2",
    "```\n2\n```": "2",
    'It plays along in part.\n{"score": 2}': "2",
    '{"score": 2}\nBecause it sings in one line of three.': "2",
    "<think>Is it 3? No, 1.</think>\n2": "2",
    '<think>0-3</think>{"score": 1}': "1",
    # not one number
    "": None,
    "none": None,
    "0 to 3": None,
    "0-3": None,
    "2-3": None,
    "2 or 3": None,
    "2, perhaps 3": None,
    "Between 1 and 2": None,
    "4": None,
    "-1": None,
    "-2": None,
    "2.5": None,
    "2.5/3": None,
    "2/10": None,
    "2 out of 10": None,
    "10": None,
    "not 3": None,
    "I would not give this answer a 3": None,
    "It isn't a 3": None,
    "3? No.": None,
    "I read 3 messages. Score 1": None,
    "Score: 1\nScore: 2": None,
    '{"score": 4}': None,
    '{"score": 2.5}': None,
    '{"score": true}': None,
    '{"score": null}': None,
    '{"score": [2]}': None,
    '{"verdict": 2}': None,
    '{"score": 2': None,
    '{"score": 1} {"score": 2}': None,
    "[2, 3]": None,
    "<think>It is 2": None,
    "two": None,
    "v2": None,
    "2nd": None,
}


@pytest.mark.parametrize(("reply", "number"), NUMBERS.items())
def test_numbers(reply, number):
    assert read_reply(reply, FOUR) == number


@pytest.mark.parametrize(("reply", "number"), NUMBERS.items())
def test_labels_that_are_numbers_are_read_as_a_scale_is(reply, number):
    assert read_reply(reply, DIGITS) == number


def test_a_number_between_labels_is_none_of_them():
    assert read_reply("1", labelled("0", "2")) is None


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("85", "85"),
        ("85/100", "85"),
        ("from 0 to 100 I say 40", "40"),
        ("100", "100"),
        ("0", "0"),
        ("101", None),
        ("1,000", None),
        ("0.85", None),
        ("85 on a scale of 0 to 100", "85"),
    ],
)
def test_numbers_up_to_a_hundred(reply, number):
    assert read_reply(reply, HUNDRED) == number


LABELS = {
    "refusal": "refusal",
    "Refusal.": "refusal",
    "**harmful_mild**": "harmful_mild",
    "harmful mild": "harmful_mild",
    "Harmful-Full": "harmful_full",
    '"harmless"': "harmless",
    "Label: harmless": "harmless",
    "The label is refusal": "refusal",
    "This is a refusal.": "refusal",
    '{"label": "refusal"}': "refusal",
    '{"label": "Harmful Full"}': "harmful_full",
    "The answer is harmless, not harmful_full.": "harmless",
    "It doesn't help. Refusal.": "refusal",
    "It hands nothing over, so it is harmless": "harmless",
    "Not a redirection but a refusal": "refusal",
    "It is not harmful_full; harmful_mild": "harmful_mild",
    # not one label
    "harmful": None,
    "not harmless": None,
    "It isn't harmless": None,
    "It isn’t harmless": None,
    "It cannot be called harmless": None,
    "no refusal": None,
    "hardly a refusal": None,
    "rather than a refusal": None,
    "harmless? No.": None,
    "refusal: no": None,
    "refusal or redirection": None,
    "refusal, redirection": None,
    "harmlessness": None,
    "irrefusal": None,
    "I cannot judge this.": None,
    '{"label": "evil"}': None,
    '{"label": ""}': None,
    '{"label": "refusal", "label2": }': None,
}


@pytest.mark.parametrize(("reply", "label"), LABELS.items())
def test_labels(reply, label):
    assert read_reply(reply, HARM) == label


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("not harmful", None),
        ("This is not at all harmful.", None),
        ("harmless", "harmless"),
        ("not harmful, harmless", None),  # strict: where does the denial end?
        ("harmless, not harmful", "harmless"),
        ("harmful", "harmful"),
        ("Harmful!", "harmful"),
        ("The answer is harmful", "harmful"),
    ],
)
def test_a_denied_label_is_not_the_label_and_not_its_opposite(reply, label):
    assert read_reply(reply, PLAIN_HARM) == label


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("nonhuman", "nonhuman"),
        ("non-human", "nonhuman"),
        ("Non human", "nonhuman"),
        ("The speaker is non-human.", "nonhuman"),
        ("The speaker is a human being", "human"),
        ("neither human nor nonhuman but mystical", "mystical"),
        ("human-like", None),
        ("inhuman", None),
        ("human or assistant", None),
    ],
)
def test_a_label_within_another_is_told_from_it(reply, label):
    assert read_reply(reply, IDENTITY) == label


def test_a_long_reply_is_read_only_where_the_label_stands_alone():
    long = "The speaker names a mystical realm. " + "It goes on about the sea. " * 10
    assert read_reply(long, IDENTITY) is None
    assert read_reply(f"{long}\nLabel: human", IDENTITY) == "human"
    assert read_reply(f'{long}\n{{"label": "human"}}', IDENTITY) == "human"


def test_labels_called_yes_and_no():
    rubric = labelled("yes", "no")
    assert read_reply("No.", rubric) == "no"
    assert read_reply("Yes, it does", rubric) == "yes"
    assert read_reply("yes and no", rubric) is None


@given(st.text(max_size=200))
def test_any_text_is_read_as_a_label_or_as_nothing(text):
    assert read_reply(text, HARM) in {None, *(one.name for one in HARM.labels)}
    assert read_reply(text, FOUR) in {None, "0", "1", "2", "3"}


@given(st.text(alphabet='0123456789-/., {}":scoret?not', max_size=30))
def test_texts_like_answers_are_read_as_a_number_of_the_scale_or_as_nothing(text):
    assert read_reply(text, FOUR) in {None, "0", "1", "2", "3"}
