"""keel prompts: the library on the command line, and a user's own beside it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from keel.cli.prompts import app
from keel.prompts import load_library, read_roles
from tests.cli.test_refusals import check_refused
from tests.prompts.endpoint_server import serving
from tests.prompts.test_generating import ROLE

BELOW = [str(command.name) for command in app.registered_commands]


def test_the_counts_are_told_in_json(keel):
    found = keel("prompts", "--json").json
    wanted = {"roles": 275, "role_prompts": 1375, "traits": 240, "trait_pairs": 1200}
    assert wanted.items() < found.items()
    assert found["questions"] == 240


def test_alone_it_counts(keel):
    assert keel("prompts") == keel("prompts", "count")
    assert keel("prompts", "--json").json == keel("prompts", "count", "--json").json


def test_its_own_help_lists_what_is_below(keel):
    found = keel("prompts", "--help")
    assert found.code == 0
    overview, _, examples = found.out.partition("Examples:")
    assert all(f" {command} " in overview for command in BELOW)
    assert "keel prompts show pirate" in examples


def test_the_counts_are_told_in_words_with_kinds_and_topics(keel):
    out = keel("prompts").out
    assert "role prompts                1375" in out
    assert "professional 91, everyday 37" in out
    assert "values 24" in out


@pytest.mark.parametrize("command", BELOW)
def test_each_command_below_shows_an_example_and_answers_in_json(keel, command):
    found = keel("prompts", command, "--help")
    assert (found.code, found.err) == (0, "")
    options, _, examples = found.out.partition("Examples:")
    assert f"keel prompts {command}" in examples
    assert "--json" in options


def test_no_help_loads_torch():
    code = f"""
import sys
from keel.cli import run
for command in {BELOW!r}:
    assert run(["prompts", command, "--help"]) == 0
heavy = {{"torch", "transformers", "numpy", "openai"}} & set(sys.modules)
sys.exit(f"loaded {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("what", "count"), [("roles", 275), ("traits", 240), ("questions", 240)])
def test_everything_is_listed_a_line_each(keel, what, count):
    assert len(keel("prompts", "list", what).out.splitlines()) == count
    assert len(keel("prompts", "list", what, "--json").json) == count


def test_a_name_of_a_role_and_of_a_trait_shows_both(keel):
    found = keel("prompts", "show", "stoic", "--json").json
    assert len(found["roles"][0]["system_prompts"]) == len(found["traits"][0]["pairs"]) == 5
    out = keel("prompts", "show", "stoic").out
    assert found["roles"][0]["system_prompts"][4] in out
    assert found["traits"][0]["pairs"][4]["discourage"] in out


def test_all_the_words_must_occur_in_a_text_that_is_found(keel):
    found = keel("prompts", "search", "PIRATE", "gulls", "--json").json
    assert [hit["place"] for hit in found] == ["role pirate, prompt 2"]
    assert "role pirate, prompt 2: The deck pitches" in keel("prompts", "search", "gulls").out


def test_the_library_itself_validates(keel, place):
    role, trait = load_library().roles[0], load_library().traits[0]
    write(place / "mine/roles.jsonl", as_record(role))
    write(place / "mine/traits.jsonl", as_record(trait))
    found = keel("prompts", "validate", "mine", "--json").json
    assert (found["roles"], found["traits"], found["valid"], found["faults"]) == (1, 1, True, [])


def test_faults_are_listed_and_exit_with_3(keel, place):
    role = as_record(load_library().roles[0]) | {"rubric": "Edits."}
    write(place / "mine/roles.jsonl", role)
    found = keel("prompts", "validate", "mine")
    assert found.code == 3
    assert "role editor, rubric: has 1 words, expected 8 to 45" in found.out
    assert found.err == "keel: mine has 1 faults; mend them in its files\n"
    assert json.loads(keel("prompts", "validate", "mine", "--json").out)["valid"] is False


@pytest.mark.real
def test_texts_that_say_the_same_in_other_words_are_found_by_cosine(keel, place):
    questions = [
        {"text": "What do you like to eat for breakfast?", "topic": "daily"},
        {"text": "What do you like eating at breakfast time?", "topic": "daily"},
    ]
    write(place / "mine/questions.jsonl", *questions)
    assert keel("prompts", "validate", "mine").code == 0
    found = keel("prompts", "validate", "mine", "--cosine")
    assert found.code == 3
    assert "question 2: is too like question 1: cosine 0.9" in found.out


def test_a_run_is_priced_without_a_model(keel):
    found = keel("prompts", "price", "--what", "both", "--tokens-per-s", "1000", "--json").json
    # 275 × 240 × 5 + 240 × 5 + 240 × 240 × 10 answers of 512 tokens
    assert found["answers"] == 330_000 + 1_200 + 576_000
    assert found["new_tokens"] == found["answers"] * 512
    assert found["hours"] == pytest.approx(found["new_tokens"] / 1000 / 3600)


def test_the_scale_sets_what_is_not_given(keel):
    given = ("--scale", "small", "--role-count", "10", "--max-new-tokens", "7")
    roles, default = keel("prompts", "price", *given, "--json").json["parts"]
    assert (roles["answers"], roles["new_tokens"]) == (10 * 20 * 2, 10 * 20 * 2 * 7)
    assert (default["answers"], roles["hours"]) == (20 * 5, None)
    assert "10 × 20 questions × 2 prompts = 400 answers" in keel("prompts", "price", *given).out


def test_a_role_is_generated_and_can_be_extracted_with(keel, place):
    with serving(json.dumps(ROLE)) as served:
        found = keel(
            *("prompts", "generate", "role", "clockmaker", "Mends clocks patiently."),
            *("--kind", "professional", "--model", "m", "--base-url", served.address),
            *("-o", "roles", "--json"),
        ).json
    assert found["path"] == "roles/clockmaker.json"
    assert [role.name for role in read_roles(place / "roles").roles] == ["clockmaker"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "nobody"), ("no role or trait is called 'nobody'", "keel prompts list")),
        (("list", "cats"), ("'cats'", "'roles'", "'traits'")),
        (("validate", "nowhere"), ("nowhere is no folder",)),
        (("price", "--role-count", "300"), ("300 roles are asked for", "the library has 275")),
        (("price", "--tokens-per-s", "0"), ("speed is 0.0 tokens per second",)),
        (("--json", "list", "roles"), ("unexpected extra argument", "list roles")),
        (("frob",), ("No such command 'frob'",)),
        (
            ("generate", "role", "Clock", "Mends clocks, slowly.", "--model", "m", "-o", "roles"),
            ("name is 'Clock', expected small letters",),
        ),
        (
            (
                "generate",
                "trait",
                "tidy",
                "Tidies after everybody.",
                "--model",
                "m",
                "-o",
                "traits",
            ),
            ("OPENAI_API_KEY is not set",),
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(keel, place, monkeypatch, arguments, said):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    check_refused(keel("prompts", *arguments), *said)
    assert not list(place.iterdir())


def as_record(made) -> dict[str, object]:
    from dataclasses import asdict

    return {key: value for key, value in asdict(made).items() if key != "questions"}


def write(path, *records) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
