"""Files that people write by hand, the reference's and wrong ones among them."""

import json
from pathlib import Path

import pytest

from keel.errors import MissingArtifactError, UsageError
from keel.prompts import (
    Library,
    Question,
    Role,
    Trait,
    TraitPair,
    read_library,
    read_questions,
    read_roles,
    read_traits,
)
from tests.prompts.reference import NEEDS_REFERENCE, REFERENCE

FIVE = ["one", "two", "three", "four", "five"]
OURS = {
    "name": "baker",
    "kind": "everyday",
    "description": "Bakes.",
    "system_prompts": FIVE,
    "rubric": "Flour.",
}
THEIRS = {
    "instruction": [{"pos": text} for text in FIVE],
    "questions": ["unused?"],
    "eval_prompt": "Judge {answer}.",
}
CALM = {
    "name": "calm",
    "description": "Unhurried.",
    "pairs": [{"encourage": "Be calm.", "discourage": "Be wild."}],
    "rubric": "100 is calm; 0 is wild.",
}
CALM_PAIR = (TraitPair("Be calm.", "Be wild."),)
BAKER = Role("baker", tuple(FIVE), "everyday", "Bakes.", "Flour.")


def write(path: Path, *records) -> Path:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


# --- roles


def test_a_role_in_our_form_is_read_whole(tmp_path):
    write(tmp_path / "baker.json", OURS)
    assert read_roles(tmp_path) == Library((BAKER,), (), ())


def test_many_roles_stand_in_one_jsonl_file_in_its_order(tmp_path):
    write(tmp_path / "roles.jsonl", OURS, OURS | {"name": "actor"})
    assert [role.name for role in read_roles(tmp_path).roles] == ["baker", "actor"]


def test_a_role_in_the_references_form_takes_its_name_from_the_file(tmp_path):
    write(tmp_path / "coral_reef.json", THEIRS)
    assert read_roles(tmp_path).roles == (
        Role("coral_reef", tuple(FIVE), rubric="Judge {answer}."),
    )


@pytest.mark.parametrize(
    "record",
    [{"instruction": [{"pos": ""}, {"pos": "Be."}]}, {"system_prompts": ["", "Be."]}],
    ids=["reference", "ours"],
)
def test_default_json_is_the_default_and_may_hold_the_empty_prompt(tmp_path, record):
    write(tmp_path / "default.json", record)
    write(tmp_path / "baker.json", OURS)
    read = read_roles(tmp_path)
    assert (read.default_prompts, read.roles) == (("", "Be."), (BAKER,))


def test_the_default_is_known_by_its_exact_name(tmp_path):
    """The reference takes any name that holds `default` for the default."""
    write(tmp_path / "defaulter.json", THEIRS)
    read = read_roles(tmp_path)
    assert ([role.name for role in read.roles], read.default_prompts) == (["defaulter"], ())


def test_a_byte_order_mark_and_hidden_files_are_no_trouble(tmp_path):
    (tmp_path / "baker.json").write_text(json.dumps(OURS), encoding="utf-8-sig")
    (tmp_path / "._baker.json").write_bytes(b"\0\xff")
    assert read_roles(tmp_path).roles == (BAKER,)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (
            OURS | {"sytem": 1},
            "unknown key 'sytem', rename or remove it; known keys: name, system_prompts",
        ),
        ({k: v for k, v in OURS.items() if k != "name"}, "key 'name' is missing, add it"),
        (OURS | {"system_prompts": FIVE[:4]}, "'baker' has 4 system prompts, expected 5"),
        (OURS | {"system_prompts": [*FIVE[:4], " "]}, "empty system prompt; write it"),
        (OURS | {"system_prompts": [*FIVE[:4], "one"]}, "system prompt 'one' is there twice"),
        (OURS | {"system_prompts": [*FIVE[:4], 5]}, "'system_prompts.4' is 5: .* valid string"),
        (OURS | {"name": "default"}, "cannot be called 'default'"),
        (OURS | {"name": "a/b"}, "name 'a/b' cannot stand in a prompt's id"),
        (
            THEIRS | {"kind": "x"},
            "unknown key 'kind', rename or remove it; known keys: instruction",
        ),
        (THEIRS | {"instruction": [{"pso": "x"}]}, "key 'instruction.0.pos' is missing"),
        (THEIRS | {"instruction": [{"pos": "x"}]}, "has 1 system prompts, expected 5"),
        ([OURS], r"holds a list, expected an object"),
    ],
)
def test_a_wrong_role_file_is_named_with_what_is_wrong_in_one_line(tmp_path, record, complaint):
    write(tmp_path / "baker.json", record)
    with pytest.raises(UsageError, match=rf"baker\.json: .*{complaint}") as caught:
        read_roles(tmp_path)
    assert "\n" not in str(caught.value)


def test_broken_json_is_named_with_its_line(tmp_path):
    (tmp_path / "roles.jsonl").write_text(json.dumps(OURS) + '\n{"name": ', encoding="utf-8")
    with pytest.raises(UsageError, match=r"roles\.jsonl, line 2: not JSON .* mend the file"):
        read_roles(tmp_path)


def test_text_that_is_not_utf_8_is_named_with_the_byte(tmp_path):
    (tmp_path / "baker.json").write_bytes(b'{"name": "\xe9"}')
    with pytest.raises(UsageError, match=r"baker\.json is not UTF-8 at byte 10"):
        read_roles(tmp_path)


def test_two_roles_of_one_name_are_refused(tmp_path):
    write(tmp_path / "baker.json", OURS)
    write(tmp_path / "roles.jsonl", OURS)
    with pytest.raises(UsageError, match="role 'baker' is there twice"):
        read_roles(tmp_path)


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["You are {modelname}."], r"default prompt has \{modelname\}, expected \{model_name\}"),
        (["", ""], "default prompt '' is there twice"),
    ],
)
def test_a_wrong_default_is_refused_by_its_file(tmp_path, texts, complaint):
    write(tmp_path / "baker.json", OURS)
    write(tmp_path / "default.json", {"system_prompts": texts})
    with pytest.raises(UsageError, match=rf"default\.json: {complaint}"):
        read_roles(tmp_path)


def test_a_folder_without_roles_is_refused(tmp_path):
    write(tmp_path / "default.json", {"system_prompts": [""]})
    with pytest.raises(MissingArtifactError, match="no role files; expected NAME.json"):
        read_roles(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    for read in (read_roles, read_traits):
        with pytest.raises(MissingArtifactError, match="nowhere is no folder"):
            read(tmp_path / "nowhere")


@NEEDS_REFERENCE
def test_the_references_275_roles_and_default_are_read_as_they_are():
    read = read_roles(REFERENCE / "roles")
    assert (len(read.roles), len(read.default_prompts), read.default_prompts[0]) == (275, 5, "")
    ghost = next(role for role in read.roles if role.name == "ghost")
    raw = json.loads((REFERENCE / "roles/ghost.json").read_text(encoding="utf-8"))
    assert list(ghost.system_prompts) == [entry["pos"] for entry in raw["instruction"]]
    assert ghost.rubric == raw["eval_prompt"]


# --- questions


def test_our_questions_carry_their_topic(tmp_path):
    path = write(tmp_path / "q.jsonl", {"text": "Why?", "topic": "fear"}, {"text": "How?"})
    assert [(q.text, q.topic) for q in read_questions(path)] == [("Why?", "fear"), ("How?", "")]


def test_a_text_file_has_a_question_a_line_and_empty_lines_do_not_count(tmp_path):
    path = tmp_path / "q.txt"
    path.write_bytes("\ufeffWhy?\r\n\r\n  How? \n".encode())
    assert [q.text for q in read_questions(path)] == ["Why?", "How?"]


def test_a_line_separator_inside_a_json_string_ends_no_record(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"text": "Why\u2028though?"}\n', encoding="utf-8")
    assert [q.text for q in read_questions(path)] == ["Why\u2028though?"]


def test_the_references_questions_are_told_apart_by_id(tmp_path):
    """Its file of 240 asks one question under two ids: both stay, or numbers would shift."""
    twins = [{"question": "Why?", "id": 7}, {"question": "Why?", "id": 8}]
    assert len(read_questions(write(tmp_path / "q.jsonl", *twins))) == 2
    with pytest.raises(UsageError, match="question 'id 7' is there twice"):
        read_questions(write(tmp_path / "q.jsonl", twins[0], twins[0]))


@NEEDS_REFERENCE
def test_the_references_240_questions_are_read_as_they_are_and_make_a_library():
    questions = read_questions(REFERENCE / "extraction_questions.jsonl")
    assert (len(questions), len({q.text for q in questions})) == (240, 239)
    assert len(Library((), ("",), questions).questions) == 240


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("q.txt", " \n\n", r"q\.txt has no questions; give one a line"),
        ("q.jsonl", "", r"q\.jsonl has no questions"),
        ("q.txt", "Why?\nHow?\nWhy?", r"q\.txt: question 'Why\?' is there twice; remove one"),
        ("q.jsonl", '{"text": "Why?"}\n{"text": "Why?"}', r"question 'Why\?' is there twice"),
        ("q.jsonl", '{"text": "Why?"}\n{"txt": ""}', "line 2: key 'text' is missing"),
        ("q.jsonl", '{"text": " "}', "line 1: a question is empty"),
        ("q.jsonl", '{"question": "Why?", "topic": ""}', "line 1: unknown key 'topic'"),
        ("q.jsonl", "Why?", "line 1: not JSON"),
        ("q.csv", "Why?", r"ends in '\.csv', expected \.jsonl, or \.txt"),
    ],
)
def test_a_wrong_file_of_questions_is_named_with_what_is_wrong(tmp_path, name, content, complaint):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=complaint):
        read_questions(tmp_path / name)


def test_a_file_of_questions_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingArtifactError, match=r"cannot read .*q\.txt: No such file"):
        read_questions(tmp_path / "q.txt")


# --- traits


def test_a_trait_in_the_references_form_is_read_whole(tmp_path):
    pair = {"pos": "Be calm.", "neg": "Be wild."}
    write(
        tmp_path / "calm.json",
        {"instruction": [pair], "questions": ["Well?"], "eval_prompt": "Calm?"},
    )
    expected = Trait("calm", (TraitPair("Be calm.", "Be wild."),), "", ("Well?",), "Calm?")
    assert read_traits(tmp_path) == (expected,)


def test_a_trait_in_our_form_is_read_whole(tmp_path):
    expected = Trait("calm", CALM_PAIR, "Unhurried.", rubric="100 is calm; 0 is wild.")
    write(tmp_path / "calm.json", CALM)
    assert read_traits(tmp_path) == (expected,)


def test_many_traits_stand_in_one_jsonl_file_in_its_order(tmp_path):
    write(tmp_path / "traits.jsonl", CALM | {"name": "wild"}, CALM)
    assert [trait.name for trait in read_traits(tmp_path)] == ["wild", "calm"]


def test_two_traits_of_one_name_are_refused(tmp_path):
    write(tmp_path / "traits.jsonl", CALM, CALM)
    with pytest.raises(UsageError, match="trait 'calm' is there twice"):
        read_traits(tmp_path)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (CALM | {"name": "a/b"}, "trait name 'a/b' cannot stand in a prompt's id"),
        (CALM | {"questions": ["?"]}, "unknown key 'questions', rename or remove it"),
        (CALM | {"pairs": [{"encourage": "x"}]}, r"key 'pairs\.0\.discourage' is missing"),
        ({"instruction": []}, r"calm\.json: trait 'calm' has no pair"),
        ({"instruction": [{"pos": "x"}]}, r"calm\.json: key 'instruction\.0\.neg' is missing"),
        ({"instruction": [{"pos": "x", "neg": ""}]}, r"calm\.json: a trait's system prompt is emp"),
    ],
)
def test_a_wrong_trait_file_is_named_with_what_is_wrong(tmp_path, record, complaint):
    write(tmp_path / "calm.json", record)
    with pytest.raises(UsageError, match=complaint):
        read_traits(tmp_path)


def test_a_folder_without_traits_is_refused(tmp_path):
    with pytest.raises(MissingArtifactError, match="no trait files; expected NAME.json"):
        read_traits(tmp_path)


@NEEDS_REFERENCE
def test_the_references_240_traits_are_read_as_they_are():
    traits = read_traits(REFERENCE / "traits")
    assert (len(traits), {len(t.pairs) for t in traits}, {len(t.questions) for t in traits}) == (
        240,
        {5},
        {40},
    )


# --- whole libraries


def test_a_folder_is_read_as_a_library_roles_and_traits_told_apart_by_their_keys(tmp_path):
    """In either form, each in a file of its own or in one of many lines."""
    write(tmp_path / "library.json", {"schema_version": 1, "title": "Mine"})
    write(tmp_path / "default.json", {"system_prompts": [""]})
    write(tmp_path / "ghost.json", THEIRS)
    write(tmp_path / "roles.jsonl", OURS)
    write(tmp_path / "wild.json", {"instruction": [{"pos": "Be wild.", "neg": "Be calm."}]})
    write(tmp_path / "traits.jsonl", CALM)
    write(tmp_path / "questions.jsonl", {"text": "Why?"})
    read = read_library(tmp_path)
    assert [role.name for role in read.roles] == ["ghost", "baker"]
    assert [trait.name for trait in read.traits] == ["wild", "calm"]
    assert (read.default_prompts, read.questions) == (("",), (Question("Why?"),))


def test_a_library_may_have_one_thing_alone(tmp_path):
    write(tmp_path / "traits.jsonl", CALM)
    assert read_library(tmp_path) == Library((), (), (), read_traits(tmp_path))


def test_a_folder_with_nothing_of_a_library_is_refused(tmp_path):
    write(tmp_path / "default.json", {"system_prompts": [""]})
    with pytest.raises(MissingArtifactError, match="has no roles, traits or questions; expected"):
        read_library(tmp_path)


@pytest.mark.parametrize("read", [read_library, read_roles, read_traits])
def test_a_library_of_another_schema_is_refused(tmp_path, read):
    write(tmp_path / "library.json", {"schema_version": 2})
    write(tmp_path / "roles.jsonl", OURS)
    with pytest.raises(UsageError, match=r"library\.json: schema_version is 2, expected 1; use"):
        read(tmp_path)


def test_a_role_may_be_called_library(tmp_path):
    write(tmp_path / "library.json", OURS | {"name": "library"})
    assert [role.name for role in read_roles(tmp_path).roles] == ["library"]
