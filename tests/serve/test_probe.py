"""What a server must show to count as capped, on servers that each fail in a way of their own."""

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager, suppress

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


@contextmanager
def listening(talk, context=None):
    """The port of a server that talks to each client in a way of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with suppress(OSError):
                        if context is not None:
                            client = context.wrap_socket(client, server_side=True)
                        with client:
                            talk(client)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def drip(client):
    """Answers at once, and goes on for an hour, a byte at a time."""
    client.recv(4096)
    client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 72000\r\n\r\n")
    for _ in range(72000):
        client.sendall(b" ")
        time.sleep(0.05)


def say_nothing(client):
    client.recv(4096)
    time.sleep(20)


@pytest.mark.parametrize("talk", [drip, say_nothing])
def test_a_server_that_is_too_slow_ends_the_check_and_says_what_to_do(talk):
    """One that sent a byte now and then was waited for without end."""
    with listening(talk) as port, pytest.raises(EndpointError, match=r"in time.*--timeout SECONDS"):
        check_server(f"http://127.0.0.1:{port}", CheckSettings(timeout_s=0.5))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that nobody signed but itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    made = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", "key.pem", "-out", "own.pem", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, cwd=made, check=True, capture_output=True)
    return made / "own.pem", made / "key.pem"


@pytest.mark.parametrize("trust", ["nobody", "own", "any"])
def test_a_certificate_that_is_not_trusted_says_how_to_trust_it(certificate, trust):
    own, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own, key)
    settings = CheckSettings(
        authority=str(own) if trust == "own" else None,
        accepts_any_certificate=trust == "any",
        timeout_s=10,
    )

    def lacks_keel(client):
        client.recv(4096)
        client.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    expected = {"nobody": (EndpointError, r"not trusted here.*--ca FILE.*--insecure")}
    error, message = expected.get(trust, (NotAppliedError, "runs without Keel"))
    with listening(lacks_keel, context) as port, pytest.raises(error, match=message):
        check_server(f"https://127.0.0.1:{port}", settings)


def test_a_file_that_holds_no_certificates_is_refused(tmp_path):
    for file in (tmp_path / "none.pem", tmp_path):
        with pytest.raises(UsageError, match=r"--ca .* holds no certificates"):
            check_server(URL, CheckSettings(authority=str(file)))
    with pytest.raises(UsageError, match="--ca and --insecure"):
        check_server(URL, CheckSettings(authority="x", accepts_any_certificate=True))
