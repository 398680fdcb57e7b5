"""The page `/keel` of a server: who sees it, and what it shows in a browser."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from keel.engines.vllm import CURRENT, AnswerSums, ServeEnvironment, deployment_for
from keel.engines.vllm.front import Front
from keel.serve.conversations import ConversationStore, Namer
from keel.serve.watch import Watch
from keel.serve.watcher import Watcher
from keel.store import save_floors
from keel.store.alarms import write_alarm
from keel.types import Floor, Floors
from tests.engines.vllm.toys import direction
from tests.serve.alarms import alarm
from tests.ui.test_browser import CONTRASTS, NAMES

MARKER = "xylophone-7261"


class Vllm:
    """Answers every chat with one choice, whose level its last message says."""

    async def __call__(self, scope, receive, send):
        message = json.loads((await receive())["body"])["messages"][-1]["content"]
        current = CURRENT.get()
        current.used.add(current.name or "high")
        sums = AnswerSums(40, 40 * (2.0 + 4.0 * float(message.split()[-1])), 0.0, 0.0, 0.1)
        current.watch.sums[0, 0] = sums
        body = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": MARKER}}]}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})


class Engines:
    """Two engines, of which one can lose its floors."""

    def __init__(self):
        self.is_held = True

    async def call_utility_all_async(self, name, default):
        assert name == "keel_numbers"
        firing = {"high": [{"3": (900, 90)}], "low": [{"2": (100, 50)}]}
        both = {
            "fault": "",
            "tested_s_ago": 12.0,
            "requests": {"high": 7, "low": 1},
            "firing": firing,
        }
        return [{**both, "default_is_held": True}, {**both, "default_is_held": self.is_held}]


class Served:
    """A server of this process, over a real socket."""

    def __init__(self, folder, keys=()):
        self.engines = Engines()
        deployment = deployment_for(ServeEnvironment.of())
        args = SimpleNamespace(
            api_key=list(keys), root_path="", served_model_name=["tiny"], model="tiny"
        )
        state = SimpleNamespace(
            vllm_config=SimpleNamespace(additional_config={"keel": deployment.to_config()}),
            args=args,
            engine_client=SimpleNamespace(engine_core=self.engines),
        )
        front = None

        async def app(scope, receive, send):
            nonlocal front
            if front is None:  # in the server's thread, to which its file belongs
                store = ConversationStore(folder / "c.sqlite")
                front = Front(Watch(Vllm(), Watcher(alarm(), store, Namer(store.secret)), ""))
            scope["app"] = SimpleNamespace(state=state)
            await front(scope, receive, send)

        uvicorn = pytest.importorskip("uvicorn")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = uvicorn.Config(app, port=port, log_level="error", lifespan="off")
        self.server = uvicorn.Server(config)
        self.url = f"http://127.0.0.1:{port}"
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve()))
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def get(self, path, **headers):
        """(status, headers, body) of a page or of its numbers."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, headers=named)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, reply.headers, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()

    def talk(self, levels):
        """A conversation whose answers stand at these levels."""
        messages = []
        for level in levels:
            messages.append({"role": "user", "content": f"{MARKER} {level}"})
            body = json.dumps({"messages": messages}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{self.url}/v1/chat/completions", body, headers)
            with urllib.request.urlopen(request, timeout=30) as reply:
                assert reply.status == 200
            messages.append({"role": "assistant", "content": MARKER})


@pytest.fixture
def serve(tmp_path, monkeypatch):
    floors = [Floors((Floor(n, direction(n), 1.0),), name) for n, name in ((2, "low"), (3, "high"))]
    save_floors(floors, tmp_path / "floors", default="high")
    write_alarm(alarm(direction=direction(1)), tmp_path / "alarm.json")
    monkeypatch.setenv("KEEL_FLOORS", str(tmp_path / "floors"))
    monkeypatch.setenv("KEEL_ALARM", str(tmp_path / "alarm.json"))
    running = []

    def served(*keys):
        running.append(Served(tmp_path, keys))
        return running[-1]

    yield served
    for each in running:
        each.server.should_exit = True
        each.thread.join()


def test_a_browser_gets_the_page_and_a_program_its_json(serve):
    served = serve()
    status, headers, body = served.get("/keel", accept="text/html,application/xhtml+xml")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "</html>" in body
    assert json.loads(served.get("/keel")[2])["setting"] == "high"


@pytest.mark.parametrize("path", ["/keel", "/keel/numbers", "/keel/drift"])
def test_with_a_key_the_page_is_for_who_has_it(serve, path):
    served = serve("s3cret", "other")
    page = {"accept": "text/html"}
    status, headers, _ = served.get(path, **page)
    assert (status, headers["www-authenticate"][:5]) == (401, "Basic")
    assert served.get(path, authorization="Bearer wrong", **page)[0] == 401
    assert served.get(path, authorization="Basic !", **page)[0] == 401
    assert served.get(path, authorization="Bearer s3cret", **page)[0] == 200
    typed = base64.b64encode(b"anybody:other").decode()
    assert served.get(path, authorization=f"Basic {typed}", **page)[0] == 200


@pytest.mark.parametrize("path", ["/keel", "/keel/numbers", "/keel/drift"])
def test_without_a_key_the_page_is_for_its_own_machine(serve, path):
    served = serve()
    page = {"accept": "text/html"}
    assert served.get(path, **page)[0] == 200
    for elsewhere in ({"host": "evil.example"}, {"x_forwarded_for": "10.0.0.9"}):
        status, _, body = served.get(path, **page, **elsewhere)
        assert (status, "--api-key" in body) == (403, True)


def test_numbers_of_the_page_hold_no_words(serve):
    served = serve()
    served.talk([1.0, -0.6, -0.7, -0.8])
    numbers, drift = served.get("/keel/numbers")[2], served.get("/keel/drift")[2]
    assert MARKER not in numbers + drift
    assert json.loads(numbers)["is_capped"] is True
    assert json.loads(drift)["alarmed"][0]["turns"] == 4


@pytest.fixture(scope="module")
def browser():
    driver = pytest.importorskip("playwright.sync_api")
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser found: looked for {', '.join(NAMES)}")
    with driver.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_tab(browser):
    contexts, complaints = [], []

    def opened(url, **options):
        contexts.append(browser.new_context(**options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(30_000)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(f"{url}/keel")
        tab.wait_for_selector("#state.good, #state.bad")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.browser
def test_the_page_shows_the_cap_settings_the_hour_and_alarms_and_goes_on_by_itself(serve, open_tab):
    served = serve()
    served.talk([1.0, 0.9])
    tab = open_tab(served.url)
    assert tab.inner_text("#state") == "Capped"
    assert "engine 0 tested itself 12 s ago" in tab.inner_text("#why")
    cells = tab.query_selector_all("#settings tr:nth-child(2) > *")
    shown = [cell.inner_text().split("\n")[0] for cell in cells]
    assert shown == ["high (default)", "14", "1,800", "10 %", "1"]
    assert tab.inner_text("#unused") == "Not used yet: none."
    assert "TURNS\n2" in tab.inner_text("#sums").upper()
    assert tab.is_visible("#none")
    served.talk([1.0, 0.9, -0.5, -0.6, -0.7])
    served.engines.is_held = False
    tab.wait_for_selector("#alarmed details")
    assert "5 turns, drift most likely since turn 3" in tab.inner_text("#alarmed summary")
    assert tab.inner_text("#state") == "NOT shown to be capped"
    assert "engine 1 tested itself 12 s ago and does NOT hold the default" in tab.inner_text("#why")
    assert MARKER not in tab.content()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_its_text_stands_out(serve, open_tab, scheme):
    """WCAG AA: 4.5 to 1."""
    served = serve()
    served.talk([1.0, 0.9, -0.5, -0.6, -0.7])
    size = {"width": 360, "height": 780}
    tab = open_tab(served.url, viewport=size, color_scheme=scheme)
    tab.wait_for_selector("#alarmed details")
    tab.click("#alarmed summary")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.evaluate(CONTRASTS) == []


@pytest.mark.browser
def test_it_is_used_by_keyboard_and_keeps_what_was_opened(serve, open_tab):
    served = serve()
    served.talk([1.0, 0.9, -0.5, -0.6, -0.7])
    tab = open_tab(served.url)
    tab.wait_for_selector("#alarmed details")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "pause"
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert "Level (expected) from turn 1 on: 1.00 (1.00), 0.90" in tab.inner_text("#alarmed p")
    served.talk([1.0, -0.5, -0.6, -0.7, -0.8, -0.9])
    tab.wait_for_function("() => document.querySelectorAll('#alarmed details').length === 2")
    assert tab.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert tab.evaluate("document.activeElement.parentElement.open")


@pytest.mark.browser
def test_a_server_that_is_gone_is_said_to_be(serve, open_tab):
    served = serve()
    tab = open_tab(served.url)
    served.server.should_exit = True
    tab.wait_for_function(
        "() => document.getElementById('state').textContent.includes('does not answer')"
    )
