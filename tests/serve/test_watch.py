"""The middleware that adds verdicts: to which requests, and what it does once one has alarmed."""

import asyncio
import json

import pytest

from keel.engines.vllm import (
    CURRENT,
    FAILED,
    LATE,
    REFUSE,
    AnswerSums,
    RequestSetting,
    ServeEnvironment,
    UnreadAnswer,
    WatchedRequest,
    action_of,
)
from keel.engines.vllm.answer_sums import SumsReader
from keel.errors import UsageError
from keel.serve.conversations import ConversationStore, Namer
from keel.serve.watch import Watch
from keel.serve.watcher import Watcher
from keel.store import save_floors
from keel.types import Floor, Floors
from tests.engines.vllm.toys import direction
from tests.serve.alarms import alarm


class Vllm:
    """Answers every chat with one choice, and says by which setting it was held."""

    def __init__(self, level):
        self.level, self.held, self.allowed, self.sums = level, [], [], None
        self.message = {"content": "x"}

    async def __call__(self, scope, receive, send):
        await receive()
        current = CURRENT.get()
        self.held.append(current.name)
        self.allowed.append(current.allowed)
        current.used.add(current.name or "high")
        if self.sums is not None:
            current.watch.sums[0, 0] = self.sums
        if self.level is not None:
            sums = AnswerSums(40, 40 * (2.0 + 4.0 * self.level), 0.0, 0.0, 0.0)
            current.watch.sums[0, 0] = sums
        body = {"choices": [{"index": 0, "finish_reason": "stop", "message": self.message}]}
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _unused(client, keys):
    raise AssertionError("no worker is asked here")


@pytest.fixture
def store(tmp_path):
    kept = ConversationStore(tmp_path / "c.sqlite")
    yield kept
    kept.close()


def serving(store, level, *, action="", listeners=()):
    app = Vllm(level)
    return Watch(app, Watcher(alarm(), store, Namer(store.secret), listeners), action), app


def ask(watch, messages, *, name=None, allowed=None, **headers):
    """(status, JSON) of a chat whose request names this setting, of those that it may name."""
    sent, raw = [], json.dumps({"messages": messages}).encode()
    named = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "path": "/v1/chat/completions", "headers": named}

    async def receive():
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message):
        sent.append(message)

    watched = WatchedRequest(SumsReader(_unused))
    token = CURRENT.set(RequestSetting(name, allowed, watch=watched))
    try:
        asyncio.run(watch(scope, receive, send))
    finally:
        CURRENT.reset(token)
    return sent[0]["status"], json.loads(sent[1]["body"])


def talk(watch, turns, **asked):
    """What is said of each turn of a conversation."""
    messages, said = [], []
    for number in range(turns):
        messages.append({"role": "user", "content": f"q{number}"})
        status, reply = ask(watch, messages, **asked)
        said.append(reply["choices"][0]["keel"] if status == 200 else status)
        messages.append({"role": "assistant", "content": "x"})
    return said


def test_every_answer_says_whether_its_conversation_drifts(store):
    watch, _ = serving(store, 1.0)
    assert [said["state"] for said in talk(watch, 3)] == ["ok"] * 3
    drifting, _ = serving(store, -0.2)
    assert talk(drifting, 5)[-1]["state"] == "alarm"


def test_an_answer_that_could_not_be_read_goes_out_without_a_verdict_and_is_counted(store):
    watch, _ = serving(store, None)
    assert talk(watch, 1) == [{"setting": "high", "state": "unknown"}]
    assert store.counts() == {"unread|not seen": 1}


def test_a_store_that_fails_keeps_no_answer_back_and_is_named_once(store, capsys):
    """A first turn needs no past, and is judged all the same."""
    watch, _ = serving(store, 1.0)
    store.close()
    assert [said["state"] for said in talk(watch, 3)] == ["ok", "unknown", "unknown"]
    assert capsys.readouterr().err.count("a turn stays unread") == 1
    assert watch.watcher.unkept["unread|not kept"] == 3


@pytest.mark.parametrize(
    ("unread", "reason"),
    [
        (UnreadAnswer(FAILED), "workers failed"),
        (UnreadAnswer(LATE), "too late"),
        (AnswerSums(40, float("nan"), 0.0, 0.0), "not judged"),
        (AnswerSums(0, 0.0, 0.0, 0.0), "no content"),
    ],
    ids=["workers failed", "too late", "NaN", "no content"],
)
def test_why_an_answer_is_unread_is_counted_by_itself(store, unread, reason):
    watch, app = serving(store, None)
    app.sums = unread
    assert talk(watch, 1) == [{"setting": "high", "state": "unknown"}]
    assert store.counts() == {f"unread|{reason}": 1}


@pytest.mark.parametrize("text", [None, "Let me look."])
def test_an_answer_that_calls_a_tool_is_no_turn_and_no_evidence(store, text):
    """A call is no talk, and the alarm was calibrated on none; in transcripts it is no turn."""
    watch, app = serving(store, -0.2)
    plain, messages, said = talk(watch, 4), [], []
    for number in range(4):
        messages.append({"role": "user", "content": f"other {number}"})
        if number in (0, 2):
            calls = [{"id": f"c{number}", "type": "function", "function": {"name": "look"}}]
            app.message = {"role": "assistant", "content": text, "tool_calls": calls}
            called = ask(watch, messages)[1]["choices"][0]["keel"]
            assert called == {"setting": "high", "state": "unknown"}
            messages += [
                app.message,
                {"role": "tool", "tool_call_id": f"c{number}", "content": "7"},
            ]
            app.message = {"content": "x"}
        said.append(ask(watch, messages)[1]["choices"][0]["keel"])
        messages.append({"role": "assistant", "content": "x"})
    assert said == plain
    assert plain[-1]["evidence"] > plain[0]["evidence"]
    assert store.counts()["unread|no content"] == 2
    assert store.counts().get("misses", 0) == 0


@pytest.mark.parametrize("unread", [AnswerSums(0, 0.0, 0.0, 0.0), UnreadAnswer(LATE)])
def test_an_answer_without_a_verdict_does_not_begin_its_conversation_anew(store, unread):
    """An empty answer, or one of a single token, ended all evidence; offline it is a turn."""
    watch, app = serving(store, -0.2)
    messages, said = [], []
    for number in range(4):
        app.level, app.sums = (None, unread) if number == 2 else (-0.2, None)
        messages.append({"role": "user", "content": f"q{number}"})
        said.append(ask(watch, messages)[1]["choices"][0]["keel"])
        messages.append({"role": "assistant", "content": "x"})
    assert said[2] == {"setting": "high", "state": "unknown"}
    monitor = alarm().monitor()
    raw = 2.0 - 4.0 * 0.2
    offline = [monitor.turn("c", mean=raw, tokens=0 if n == 2 else 40) for n in range(4)]
    assert said[3]["evidence"] == pytest.approx(offline[3].evidence, rel=1e-3)
    assert "misses" not in store.counts()


def test_a_client_names_its_conversation_in_a_header(store):
    watch, _ = serving(store, -0.2)
    fresh = [{"role": "user", "content": "anew"}]
    evidence = [
        ask(watch, fresh, x_keel_conversation="7")[1]["choices"][0]["keel"]["evidence"]
        for _ in range(3)
    ]
    assert evidence == sorted(evidence)
    assert evidence[2] > 2 * evidence[0]


def test_once_it_has_alarmed_a_conversation_is_held_by_the_other_setting(store):
    watch, app = serving(store, -0.2, action="low")
    said = talk(watch, 6)
    first = [turn["state"] for turn in said].index("alarm")
    assert app.held == [None] * (first + 1) + ["low"] * (5 - first)
    assert said[-1]["setting"] == "low"


def test_the_setting_of_an_action_need_not_be_the_clients_to_choose(store):
    watch, app = serving(store, -0.2, action="low")
    talk(watch, 6, allowed=frozenset({"high"}))
    assert app.held[-1] == "low"
    assert app.allowed[-1] == {"high", "low"}


def test_a_request_that_names_its_setting_keeps_it(store):
    watch, app = serving(store, -0.2, action="low")
    talk(watch, 6, name="high")
    assert set(app.held) == {"high"}


def test_once_it_has_alarmed_a_conversation_is_refused(store):
    watch, app = serving(store, -0.2, action=REFUSE)
    said = talk(watch, 6)
    assert said[-1] == 403
    assert len(app.held) == 6 - said.count(403)


def test_what_is_said_goes_to_listeners_and_holds_no_words(store):
    heard = []
    watch, _ = serving(store, 1.0, listeners=(heard.append,))
    talk(watch, 2)
    assert [event["turn"] for event in heard] == [1, 2]
    assert set(heard[0]) == {
        *("setting", "gaps", "evidence", "state", "since", "firing", "turn", "is_new_alarm")
    }


@pytest.fixture
def served(tmp_path):
    floors = [Floors((Floor(2, direction(2), 1.0),), name) for name in ("low", "high")]
    save_floors(floors, tmp_path / "floors", default="high")
    return {"KEEL_FLOORS": str(tmp_path / "floors")}


def test_an_action_is_a_setting_of_the_server_or_a_refusal(served):
    assert action_of(ServeEnvironment.of(served)) is None
    assert action_of(ServeEnvironment.of({**served, "KEEL_ALARM_ACTION": "refuse"})) == REFUSE
    assert action_of(ServeEnvironment.of({**served, "KEEL_ALARM_ACTION": "setting:low"})) == "low"


@pytest.mark.parametrize("action", ["low", "setting:lwo", "setting:none", "drop"])
def test_an_action_that_cannot_be_taken_is_refused(served, action):
    with pytest.raises(UsageError, match="expected refuse or setting:NAME with one of"):
        action_of(ServeEnvironment.of({**served, "KEEL_ALARM_ACTION": action}))


def test_a_server_that_holds_every_request_alike_has_no_other_setting(served):
    enforced = {**served, "KEEL_ENFORCE": "1", "KEEL_ALARM_ACTION": "setting:low"}
    with pytest.raises(UsageError, match="holds every request alike"):
        action_of(ServeEnvironment.of(enforced))


EARLY = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}


def streaming(store, level):
    """A watch over an app that streams three parts, the second of them after a look."""

    async def app(scope, receive, send):
        await receive()
        current = CURRENT.get()
        current.used.add("high")
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(3):
            if number == 1 and current.watch.looks:
                early = AnswerSums(16, 16 * (2.0 + 4.0 * level), 0.0, 0.0, 0.0)
                current.watch.early[0, 0] = early
            current.watch.sums[0, 0] = AnswerSums(40, 40 * (2.0 + 4.0 * level), 0.0, 0.0, 0.0)
            end = "stop" if number == 2 else None
            choice = {**EARLY["choices"][0], "finish_reason": end}
            body = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": number < 2})

    return Watch(app, Watcher(alarm(), store, Namer(store.secret)), "")


def streamed(watch, messages, **body):
    """What is said in each part of a streamed answer; None where nothing is."""
    sent, raw = [], json.dumps({"messages": messages, "stream": True, **body}).encode()
    scope = {"type": "http", "path": "/v1/chat/completions", "headers": []}

    async def receive():
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message):
        sent.append(message)

    token = CURRENT.set(RequestSetting(None, watch=WatchedRequest(SumsReader(_unused))))
    try:
        asyncio.run(watch(scope, receive, send))
    finally:
        CURRENT.reset(token)
    parts = b"".join(each.get("body", b"") for each in sent).decode().split("\n\n")
    return [json.loads(part[6:])["choices"][0].get("keel") for part in parts if part]


def test_a_verdict_before_the_end_comes_where_it_is_wanted_and_changes_no_other(store):
    messages = [{"role": "user", "content": "q"}]
    plain = streamed(streaming(store, -0.2), messages)
    assert plain[:2] == [None, None]
    early = streamed(streaming(store, -0.2), messages, vllm_xargs={"keel_provisional": True})
    assert early[0] is None
    assert (early[1]["provisional"], early[1]["gaps"]) == (16, -0.2)
    assert early[2] == plain[2]


def test_a_verdict_before_the_end_never_raises_an_alarm(store):
    """Looked at more often than its rate allows for, the alarm would come too often."""
    messages, said = [], []
    for number in range(6):
        messages.append({"role": "user", "content": f"q{number}"})
        parts = streamed(streaming(store, -0.6), messages, vllm_xargs={"keel_provisional": True})
        said.append([part["state"] for part in parts if part])
        messages.append({"role": "assistant", "content": "xxx"})
    first = [final for _, final in said].index("alarm")
    assert said[first][0] != "alarm"
    assert len(store.base.execute("SELECT * FROM alarmed").fetchall()) == 1


def test_what_an_action_did_is_logged(store, capsys):
    heard = []
    watch, _ = serving(store, -0.6, action=REFUSE, listeners=(heard.append,))
    talk(watch, 5)
    assert {"action": "refused"} in heard
    assert "keel: a conversation has alarmed: its next turn is refused" in capsys.readouterr().err


def test_a_store_that_cannot_be_read_takes_no_action_and_no_answer(store, capsys):
    watch, _ = serving(store, 1.0, action=REFUSE)
    store.close()
    assert [said["state"] for said in talk(watch, 2)] == ["ok", "unknown"]
    assert "goes on as if its conversation had not alarmed" in capsys.readouterr().err
