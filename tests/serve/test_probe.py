"""What a server must show to count as capped, on servers that each fail in a way of their own."""

import json
import socket

import httpx
import pytest

from keel.errors import EndpointError, NotAppliedError, UsageError
from keel.serve import check_server, probe_server
from keel.settings import CheckSettings

URL = "http://model.test"


class Server:
    """Stands in for vLLM's server with Keel: two layers, of which settings move half the tokens."""

    def __init__(self, setting="high", enforced=False, allowed=None, **faults):
        self.facts = {
            **{"setting": setting, "settings": ["low", "high"], "enforced": enforced},
            **{"layers": [2, 3], "floors": "f" * 64, "weights": "", "allowed": allowed},
        }
        self.faults = faults
        self.seen = dict.fromkeys(("low", "high"), 0)

    def __call__(self, request):
        path = request.url.path
        if path == "/keel":
            if "without_keel" in self.faults:
                return httpx.Response(404)
            name = request.url.params.get("firing")
            count = self.seen.get(name, 0)
            moved = 0 if "idle" in self.faults else count // 2
            more = {} if name is None else {"firing": {"2": [count, moved], "3": [count, moved]}}
            return httpx.Response(200, json={**self.facts, **more})
        if path == "/health":
            return httpx.Response(self.faults.get("health", 200), json={})
        if path == "/v1/models":
            return httpx.Response(self.faults.get("models", 200), json={"data": [{"id": "m"}]})
        return self.answer(json.loads(request.content))

    def answer(self, body):
        name = body.get("vllm_xargs", {}).get("keel")
        is_known = name in (None, "low", "high") or (name == "none" and not self.facts["enforced"])
        if not is_known and "takes_anything" not in self.faults:
            return httpx.Response(400, json={"error": {"message": "no such setting"}})
        used = name or self.facts["setting"]
        if not (name is None and "default_passes_by" in self.faults):
            self.seen[used] = self.seen.get(used, 0) + self.faults.get("tokens", 40)
        change = 0.0 if used == "none" or "uncapped" in self.faults else 1.5
        logprobs = {"token_logprobs": [-1.0, -2.0 - change]}
        headers = {"x-keel-setting": self.faults.get("used", used)}
        return httpx.Response(200, json={"choices": [{"logprobs": logprobs}]}, headers=headers)


def probed(server, url=URL):
    with httpx.Client(transport=httpx.MockTransport(server)) as client:
        return probe_server(client, url)


def test_a_capped_server_shows_what_it_moves_and_how_far_predictions_change():
    result = probed(Server(), f"{URL}/v1")
    # The named request's 40 tokens at each of two layers, of which half move.
    assert (result.setting, result.slots, result.moved, result.change) == ("high", 80, 40, 1.5)
    assert "requests are held by high; layers 2 to 3; floors ffffffffffff" in result.line


def test_a_server_that_caps_on_request_only_is_probed_with_a_setting_that_it_has():
    result = probed(Server(setting="none"))
    assert result.setting == "low"
    assert "requests are held by none" in result.line


def test_where_nobody_may_go_without_the_counts_must_do():
    assert probed(Server(enforced=True)).change is None
    assert probed(Server(allowed=["low"])).change is None
    assert probed(Server(allowed=["none"])).change == 1.5


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"without_keel": True}, "runs without Keel"),
        ({"health": 503}, "/health is 503"),
        ({"takes_anything": True}, "status 200, expected 400"),
        ({"tokens": 0}, "no layer saw a token"),
        ({"idle": True}, "moved none of 80 slots"),
        ({"uncapped": True}, "predicts the same with a setting and without"),
        ({"used": "low"}, "held a request for high by low"),
        ({"default_passes_by": True}, "names no setting, and no layer saw a token"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_server_that_does_not_show_that_it_is_capped_is_refused(fault, message):
    with pytest.raises(NotAppliedError, match=message):
        probed(Server(**fault))


def test_an_enforced_server_that_lets_a_request_go_without_is_refused():
    with pytest.raises(NotAppliedError, match="expected 400"):
        probed(Server(enforced=True, takes_anything=True))


def test_a_server_that_wants_a_key_says_how_to_give_it(monkeypatch):
    with pytest.raises(EndpointError, match="--key-env"):
        probed(Server(models=401))
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(UsageError, match="NO_KEY holds no key"):
        check_server(URL, CheckSettings(key_variable="NO_KEY"))


def test_an_address_where_nobody_listens_is_refused():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EndpointError, match="does not answer"):
        check_server(url)


@pytest.mark.parametrize(
    "content", [{}, [], None, "ok", {"setting": "high"}, {"setting": "high", "enforced": False}]
)
def test_another_service_that_answers_everything_is_no_capped_server(content):
    """Its JSON ended `keel check` with a traceback and exit status 1."""
    with pytest.raises(EndpointError, match="does not answer as vLLM's server does"):
        probed(lambda request: httpx.Response(200, json=content))
