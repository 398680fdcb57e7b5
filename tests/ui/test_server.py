"""Who is let in, and what is refused at the door."""

from __future__ import annotations

import json

import pytest

from keel.errors import UsageError
from keel.ui.server import TOKEN_HEADER
from tests.ui.conftest import TOKEN

PATHS = ("/", "/page.js", "/page.css", "/drawing.js", "/run")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shown", ["", "another", TOKEN + "x"])
def test_without_the_token_nothing_is_shown(page, path, shown):
    response = page.client.get(path, headers={TOKEN_HEADER: shown})
    assert response.status_code == 403
    assert "open the address that keel ui printed" in response.text


@pytest.mark.parametrize("path", ["/answer", "/read", "/load", "/stop"])
def test_without_the_token_nothing_is_done(page, path):
    assert page.client.post(path, headers={TOKEN_HEADER: ""}).status_code == 403


@pytest.mark.parametrize("path", PATHS)
def test_the_token_in_the_address_opens_the_page(page, path):
    response = page.client.get(f"{path}?token={TOKEN}", headers={TOKEN_HEADER: ""})
    assert response.status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example:80"])
def test_a_name_that_points_at_this_machine_is_refused(page, host):
    """A page elsewhere can have its own name lead here, and its scripts then count as the page's
    own; the token may have leaked with the address."""
    for path in PATHS:
        response = page.client.get(path, headers={"host": host})
        assert response.status_code == 403
        assert "for this machine alone" in response.text


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:9000", "localhost", "[::1]:8765"])
def test_this_machine_is_let_in_by_each_of_its_names_and_through_a_forwarded_port(page, host):
    assert page.client.get("/run", headers={"host": host}).status_code == 200


def test_a_page_of_another_origin_is_refused_and_never_invited(page):
    origin = {"origin": "http://evil.example"}
    responses = [
        page.client.get("/run", headers=origin),
        page.client.post("/stop?job=1", headers=origin),
        page.client.options("/answer", headers={**origin, "access-control-request-method": "POST"}),
    ]
    for response in responses:
        assert response.status_code == 403
        assert not [name for name in response.headers if name.startswith("access-control")]
    own = page.client.get("/run", headers={"origin": "http://127.0.0.1:8765"})
    assert own.status_code == 200
    assert not [name for name in own.headers if name.startswith("access-control")]


def test_the_page_loads_nothing_from_elsewhere_and_fits_in_no_frame(page):
    response = page.client.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-store"
    for path in ("/", "/page.css", "/page.js", "/drawing.js"):
        text = page.client.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mesage": "Hi"}, "mesage"),
        ({"message": ""}, "message"),
        ({"sides": []}, "sides"),
        ({"sides": ["crapped"]}, "sides"),
        ({"strength": 40}, "strength"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_a_field_that_is_not_known_or_out_of_range_is_named(page, change, said):
    body = {"message": "Hi", "sides": ["capped"], "max_new_tokens": 4, "temperature": 0, **change}
    response = page.post("/answer", body)
    assert response.status_code == 400
    assert said in response.json()["error"]


def test_a_setting_that_is_not_there_is_refused_before_the_page_opens(open_page, model):
    with pytest.raises(UsageError, match="there is no setting 'layers_9:9-p1'"):
        open_page(model, setting="layers_9:9-p1")


def test_the_page_is_told_of_settings_roles_and_presets(page, model):
    about = page.client.get("/run").json()
    run = model.run
    assert [s["name"] for s in about["settings"]] == list(run.settings)
    assert about["setting"] == run.floors.name
    assert {s["percentile"] for s in about["settings"]} == {50, 75}
    roles = {role["name"]: role for role in about["roles"]}
    assert set(roles) == {"ghost", "pirate", "clerk", "nurse", "default"}
    assert roles["ghost"]["system"].startswith("You are a ghost")
    space, layer = run.persona_map.space, run.axis.layer
    row = space.roles.index("ghost")
    assert roles["ghost"]["at"] == space.coordinates_LRK[layer, row, :2].tolist()
    assert about["presets"][0]["turns"]


def test_a_file_of_conversations_is_read_as_keel_reads_files(page):
    talk = {
        "system": "You are a ghost.",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [{"type": "text", "text": "Boo"}]},
        ],
    }
    response = page.client.post("/load?name=../talk.jsonl", content=json.dumps(talk) + "\n{broken")
    (conversation,) = response.json()["conversations"]
    assert conversation["system"] == "You are a ghost."
    assert conversation["messages"] == [["user", "Hi"], ["assistant", "Boo"]]
    (note,) = response.json()["notes"]
    assert "not readable and skipped" in note
    assert "talk.jsonl" in note
    assert "/tmp" not in note


def test_a_file_without_conversations_is_refused_in_words(page):
    response = page.client.post("/load?name=a.json", content="[1, 2]")
    assert response.status_code == 400
    assert "a.json" in response.json()["error"]
