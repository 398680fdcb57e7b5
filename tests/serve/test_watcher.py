"""A served turn's verdict is the alarm's own, and nothing of its text is kept."""

import pytest

from keel.alarm import Monitor
from keel.engines.vllm import AnswerSums
from keel.serve.conversations import ConversationStore, MessageTurn, Namer
from keel.serve.watcher import ServedTurn, Watcher
from tests.serve.alarms import alarm

MARKER = "xylophone-7261"
LEVELS = [1.0, 0.9, 0.0, -0.5, -0.6, -0.7]
"""Gap units: a conversation that falls from its third turn on."""


@pytest.fixture
def store(tmp_path):
    kept = ConversationStore(tmp_path / "c.sqlite")
    yield kept
    kept.close()


def watcher(store, **more):
    return Watcher(alarm(), store, Namer(store.secret), **more)


def sums(level, tokens=40):
    return AnswerSums(tokens, tokens * (2.0 + 4.0 * level), 0.0, 0.0, 0.25)


def said_over(watching, levels=LEVELS, sender=""):
    """What is said of the turns of a conversation whose client sends all messages each time."""
    messages, said = [], []
    for number, level in enumerate(levels):
        messages.append({"role": "user", "content": f"{MARKER} q{number}"})
        turn = watching.namer.turn({"messages": messages}, id=None, sender=sender)
        answer = f"{MARKER} a{number}"
        said.append(watching.judge(ServedTurn(turn, answer, "low", sums(level), sender)))
        messages.append({"role": "assistant", "content": answer})
    return said


def test_a_conversation_is_judged_as_offline(store):
    said = said_over(watcher(store))
    monitor = Monitor(alarm())
    for turn, level in zip(said, LEVELS, strict=True):
        offline = monitor.turn("c", mean=2.0 + 4.0 * level, tokens=40)
        assert turn["evidence"] == pytest.approx(offline.evidence, abs=1e-3)
        assert turn["gaps"] == pytest.approx(level, abs=1e-3)
        assert turn["state"] == offline.state
    assert said[0]["state"] == "ok"
    assert (said[-1]["state"], said[-1]["since"]) == ("alarm", 3)
    assert said[0] == {
        "setting": "low",
        "gaps": 1.0,
        "evidence": said[0]["evidence"],
        "state": "ok",
        "since": None,
        "firing": 0.25,
    }


def test_nothing_of_a_conversations_words_is_kept(store, tmp_path):
    heard = []
    watching = watcher(store, listeners=(heard.append,))
    said_over(watching, sender=f"Bearer {MARKER}")
    store.base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert MARKER.encode() not in files
    assert MARKER not in repr(heard) + repr(watching.series("tiny"))


def test_series_are_few_and_count_turns_alarms_and_levels(store):
    watching = watcher(store)
    for _ in range(3):
        said_over(watching)
    watching.unread("not seen")
    series = {each.name: each.values for each in watching.series("tiny")}
    turns = series["keel_drift_turns"]
    assert sum(turns.values()) == 3 * len(LEVELS)
    assert series["keel_drift_alarms"] == {("tiny", "low"): 3}
    (levels,) = series["keel_drift_gaps"].values()
    assert dict(levels.buckets)["+Inf"] == 3 * len(LEVELS)
    assert levels.total == pytest.approx(3 * sum(LEVELS))
    assert series["keel_drift_unread_turns"] == {("tiny", "not seen"): 1}
    assert sum(len(values) for values in series.values()) <= 20


def test_a_conversation_that_was_forgotten_begins_anew_and_is_counted(store):
    watching = watcher(store)
    store.most = 0
    store.sweep()
    messages = [{"role": r, "content": r} for r in ("user", "assistant", "user")]
    turn = watching.namer.turn({"messages": messages}, id=None, sender="")
    watching.judge(ServedTurn(turn, "x", "low", sums(1.0), ""))
    series = {each.name: each.values for each in watching.series("tiny")}
    assert series["keel_drift_state_misses"] == {("tiny",): 1}


def test_a_state_that_cannot_be_read_begins_the_conversation_anew(store):
    watching = watcher(store)
    store.put(b"k", b"broken")
    said = watching.judge(ServedTurn(MessageTurn(b"k", ()), "x", "low", sums(1.0), ""))
    assert said["state"] == "ok"
