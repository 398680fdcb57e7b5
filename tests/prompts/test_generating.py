"""Roles and traits written by a model behind an address: a real server, and the real client."""

import json
import sys
from dataclasses import asdict

import pytest

from keel.errors import EndpointError, MissingExtraError, UsageError
from keel.prompts import (
    PromptBrief,
    generate_role,
    generate_trait,
    load_library,
    open_endpoint,
    read_library,
    read_roles,
    read_traits,
    save_prompts,
)
from tests.prompts.endpoint_server import serving

CLOCKMAKER = PromptBrief("clockmaker", "Mends clocks and distrusts hurry.", "professional")
TIDY = PromptBrief("tidy", "Puts everything back where it belongs.")
ROLE = {
    "system_prompts": [
        "You are a clockmaker in a narrow shop, and you hear which pendulum limps before you look.",
        "Forty dials tick out of step at noon; you, the clockmaker, raise your loupe to a visitor.",
        "Speak in small exact strokes, the way a clockmaker files a tooth, and pause before hours.",
        "What a clockmaker fears is haste; what you prize is a wheel that will outlive its owner.",
        "Open up each question like a stopped watch: find, as clockmakers do, where it sticks.",
    ],
    "rubric": "Talks of springs, wheels and patience, and takes its time over every single answer.",
}
TRAIT = {
    "pairs": [asdict(pair) for pair in load_library().traits[0].pairs],
    "rubric": "A 100 leaves every thing in its place; a 0 leaves things wherever they fell.",
}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def role_from(*answers: str, wanted: PromptBrief = CLOCKMAKER):
    with serving(*answers) as served, open_endpoint("m", base_url=served.address) as ask:
        return generate_role(wanted, ask), served


def test_a_role_is_written_from_a_name_and_a_description():
    role, served = role_from(json.dumps(ROLE))
    assert (role.name, role.kind, role.description) == (
        "clockmaker",
        "professional",
        "Mends clocks and distrusts hurry.",
    )
    assert list(role.system_prompts) == ROLE["system_prompts"]
    (asked,) = served.asked
    assert asked["model"] == "m"
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert "'clockmaker' (professional): Mends clocks" in asked["messages"][1]["content"]


def test_a_trait_is_written_from_a_name_and_a_description():
    with serving(json.dumps(TRAIT)) as served, open_endpoint("m", base_url=served.address) as ask:
        trait = generate_trait(TIDY, ask)
    assert [asdict(pair) for pair in trait.pairs] == TRAIT["pairs"]
    assert (trait.name, trait.rubric) == ("tidy", TRAIT["rubric"])


def test_words_and_a_fence_around_the_json_are_no_trouble():
    role, _ = role_from(f"Here you are:\n```json\n{json.dumps(ROLE, indent=1)}\n```\nEnjoy!")
    assert role.rubric == ROLE["rubric"]


def test_the_model_cannot_rename_what_was_asked_for():
    role, _ = role_from(json.dumps(ROLE | {"name": "baker", "kind": "everyday"}))
    assert (role.name, role.kind) == ("clockmaker", "professional")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("I would rather not.", "holds no JSON object"),
        ("{'system_prompts': []}", "JSON is broken"),
        (json.dumps(ROLE | {"system_prompts": ROLE["system_prompts"][:4]}), "has 4 system prompts"),
        (json.dumps({"rubric": ROLE["rubric"]}), "key 'system_prompts' is missing"),
        (json.dumps(ROLE | {"mood": "calm"}), "unknown key 'mood'"),
        (
            json.dumps(
                ROLE | {"system_prompts": ["Tick, clockmaker.", *ROLE["system_prompts"][1:]]}
            ),
            "prompt 1 has 2 words, expected 12 to 45",
        ),
        (json.dumps(ROLE | {"rubric": "Ticks."}), "rubric has 1 words"),
    ],
)
def test_a_faulty_answer_goes_back_with_its_fault_and_the_mended_one_is_taken(wrong, complaint):
    role, served = role_from(wrong, json.dumps(ROLE))
    assert role.rubric == ROLE["rubric"]
    *_, answered, back = served.asked[1]["messages"]
    assert (answered["role"], answered["content"]) == ("assistant", wrong)
    assert complaint in back["content"]


def test_a_model_that_never_gets_it_right_is_given_up_with_the_last_fault():
    with pytest.raises(UsageError, match=r"3 attempts, .*JSON is broken.*try a stronger model"):
        role_from("no", "no", "{no}")


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    _, served = role_from(json.dumps(ROLE))
    assert served.keys == ["Bearer sesame"]


def test_a_server_named_by_its_address_needs_no_key():
    _, served = role_from(json.dumps(ROLE))
    assert served.keys == ["Bearer none"]


def test_without_an_address_a_key_is_needed():
    with (
        pytest.raises(UsageError, match="OPENAI_API_KEY is not set; export it"),
        open_endpoint("m"),
    ):
        pass


def test_what_the_server_refuses_is_told_with_address_and_model():
    with (
        serving(status=404) as served,
        open_endpoint("m", base_url=served.address) as ask,
        pytest.raises(EndpointError, match=rf"'m' at {served.address} refused \(404\): no such"),
    ):
        generate_role(CLOCKMAKER, ask)


def test_an_empty_answer_is_an_error_not_an_empty_role():
    with pytest.raises(EndpointError, match="answered nothing; try another model"):
        role_from("")


def test_an_address_where_nobody_is_is_told():
    with serving() as served:
        gone = served.address
    with (
        open_endpoint("m", base_url=gone, timeout_s=1.0) as ask,
        pytest.raises(EndpointError, match="did not answer: connection failed"),
    ):
        generate_role(CLOCKMAKER, ask)


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'keel-llm\[evaluate\]'"),
        open_endpoint("m", base_url="http://127.0.0.1:9/v1"),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "description", "complaint"),
    [
        ("Clock Maker", "Mends clocks, slowly.", "name is 'Clock Maker', expected small letters"),
        ("../clock", "Mends clocks, slowly.", "expected small letters, as in coral_reef"),
        ("clockmaker", "Mends.", "description of 'clockmaker' is 'Mends.', expected 3 to 16 words"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_asked(name, description, complaint):
    with pytest.raises(UsageError, match=complaint):
        PromptBrief(name, description)


def test_a_role_without_a_kind_is_refused():
    with pytest.raises(UsageError, match="role 'clockmaker' has no kind"):
        generate_role(PromptBrief("clockmaker", "Mends clocks, slowly."), lambda talk: "")


def test_what_was_written_is_read_as_it_was(tmp_path):
    role, _ = role_from(json.dumps(ROLE))
    with serving(json.dumps(TRAIT)) as served, open_endpoint("m", base_url=served.address) as ask:
        trait = generate_trait(TIDY, ask)
    assert save_prompts(role, tmp_path / "roles").name == "clockmaker.json"
    save_prompts(trait, tmp_path / "traits")
    assert read_roles(tmp_path / "roles").roles == (role,)
    assert read_traits(tmp_path / "traits") == (trait,)
    save_prompts(trait, tmp_path / "roles")
    assert read_library(tmp_path / "roles").traits == (trait,)


def test_nothing_is_written_over(tmp_path):
    role, _ = role_from(json.dumps(ROLE))
    save_prompts(role, tmp_path)
    with pytest.raises(UsageError, match=r"clockmaker\.json is there already; remove it"):
        save_prompts(role, tmp_path)
