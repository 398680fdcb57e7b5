"""The sets that evaluations ask, and a user's own red team in CSV or JSONL."""

import json
from pathlib import Path

import pytest

from keel.errors import MissingArtifactError, UsageError
from keel.prompts import (
    Prefill,
    RedTeam,
    RedTeamCase,
    RedTeamPersona,
    RedTeamRequest,
    SusceptibleRole,
    UserPersona,
    read_red_team,
)

FOX = RedTeamCase("case_1", "You are a fox.", "Steal a hen.", "petty")


def cases(path: Path, text: str):
    path.write_text(text, encoding="utf-8")
    return read_red_team(path)


def test_a_users_cases_are_read_from_jsonl(tmp_path):
    line = {"prompt": "You are a fox.", "request": "Steal a hen.", "category": "petty"}
    assert cases(tmp_path / "mine.jsonl", json.dumps(line)) == (FOX,)


def test_the_same_cases_are_read_from_csv(tmp_path):
    text = "prompt,request,category\nYou are a fox.,Steal a hen.,petty\n"
    assert cases(tmp_path / "mine.csv", text) == (FOX,)


def test_a_csv_cell_may_hold_commas_quotes_and_lines(tmp_path):
    text = '\ufeffcategory,request,prompt,good_answer\r\nx,"a, ""b""\r\nc",p,No.\r\n\r\n'
    (case,) = cases(tmp_path / "mine.csv", text)
    assert (case.request, case.category, case.good_answer) == ('a, "b"\nc', "x", "No.")


def test_a_case_without_a_persona_has_no_system_message(tmp_path):
    (case,) = cases(tmp_path / "mine.csv", "prompt,request,category\n,Steal a hen.,petty\n")
    assert [m.speaker for m in case.conversation.messages] == ["user"]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("m.csv", "prompt,request,category,kind\na,b,c,d\n", r"m\.csv, line 2: unknown key 'kind'"),
        ("m.csv", "prompt,request\na,b\n", "line 2: key 'category' is missing"),
        ("m.csv", "prompt,request,category\na,b\n", "line 2: key 'category' is missing"),
        ("m.csv", "prompt,request,category\na,b,c,d\n", "line 2: has more cells than the first"),
        ("m.csv", 'prompt,request,category\n"a"b,c,d\n', "line 2: not CSV .* mend it"),
        ("m.csv", "prompt,request,category\na, ,c\n", "line 2: red-team case 'case_1': request"),
        ("m.csv", "prompt,request,category\na,b,\n", "red-team case 'case_1': category has an emp"),
        ("m.csv", "id,prompt,request,category\n7,a,b,c\n7,d,e,f\n", "case '7' is there twice"),
        ("m.csv", "", r"m\.csv has no cases; give one a line: prompt, request, category"),
        ("m.jsonl", "\n", r"m\.jsonl has no cases"),
        ("m.jsonl", '{"prompt": 1}', "line 1: 'prompt' is 1: .* valid string"),
        ("m.txt", "", r"ends in '\.txt', expected \.csv or \.jsonl"),
    ],
)
def test_a_wrong_file_of_cases_is_named_with_what_is_wrong(tmp_path, name, text, complaint):
    with pytest.raises(UsageError, match=complaint):
        cases(tmp_path / name, text)


def test_a_file_of_cases_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingArtifactError, match=r"cannot read .*mine\.csv"):
        read_red_team(tmp_path / "mine.csv")


def test_a_red_team_is_every_persona_with_every_request():
    team = RedTeam(
        (RedTeamPersona("fox", "You are a fox."), RedTeamPersona("cat", "You are a cat.")),
        (RedTeamRequest("hen", "petty", "Steal a hen.", "Declines."),),
    )
    assert team.cases[1] == RedTeamCase(
        "cat/hen", "You are a cat.", "Steal a hen.", "petty", "Declines."
    )
    assert len(team.cases) == 2


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Prefill("mood", "I am"), "kind is 'mood', expected purpose, traits"),
        (lambda: Prefill("traits", "I am kind."), "'I am kind.' is finished"),
        (lambda: Prefill("traits", "I am "), "'I am ' is finished"),
        (lambda: Prefill("traits", ""), "a prefill has an empty text"),
        (lambda: SusceptibleRole("nurse", ()), "role 'nurse' has an empty text"),
        (lambda: SusceptibleRole("nurse", ("a", "a")), "system prompt 'a' is there twice"),
        (
            lambda: UserPersona("u", "cooking", "Una", "Cooks.", ("soup",)),
            "user 'u': domain is 'cooking', expected coding, writing",
        ),
        (
            lambda: UserPersona("u", "coding", "Una", "Codes.", ("a", "a")),
            "user 'u': topic 'a' is there twice",
        ),
        (
            lambda: RedTeam((RedTeamPersona("a", "x"), RedTeamPersona("a", "y")), ()),
            "red-team persona 'a' is there twice",
        ),
    ],
)
def test_a_set_that_makes_no_sense_is_refused(make, complaint):
    with pytest.raises(UsageError, match=complaint):
        make()
