"""A served turn's verdict is the alarm's own, and nothing of its text is kept."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keel.alarm import Monitor, State, advance, system_hash
from keel.engines.vllm import AnswerSums
from keel.errors import CorruptArtifactError
from keel.serve.conversations import ConversationStore, MessageTurn, Namer
from keel.serve.drift_series import UNREAD
from keel.serve.watcher import KeptConversation, ServedTurn, Watcher
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
    assert series["keel_drift_alarms"] == {("tiny",): 3}
    (levels,) = series["keel_drift_gaps"].values()
    assert dict(levels.buckets)["+Inf"] == 3 * len(LEVELS)
    assert levels.total == pytest.approx(3 * sum(LEVELS))
    unread = {("tiny", reason): float(reason == "not seen") for reason in UNREAD}
    assert series["keel_drift_unread_turns"] == unread
    assert sum(len(values) for values in series.values()) <= 20


def test_before_the_first_alarm_none_are_counted_and_not_no_series(store):
    """Prometheus' increase() misses what a counter begins with."""
    series = {each.name: each.values for each in watcher(store).series("tiny")}
    assert series["keel_drift_alarms"] == {("tiny",): 0}


def test_many_settings_and_states_have_a_bounded_number_of_lines(store):
    """Of 16 settings in 1,000 conversations: all states, with alarms, unread and foreign turns.

    24 that are always there, and 5 states of 3 settings and of `others`; a histogram whose least
    bound is negative has no lines but its buckets.
    """
    watching = watcher(store)
    for number in range(1000):
        levels = (LEVELS, [1.0, 9.0], [1.0, 0.4, 0.2], [1.0])[number % 4]
        setting = f"s{number // 4 % 16}"
        for turn, level in enumerate(levels):
            conversation = MessageTurn(watching.namer.of_id(str(number), ""), (), str(number))
            few = 2 if turn and number % 4 == 1 and number // 64 % 2 else 40
            served = ServedTurn(conversation, "x", setting, sums(level, few), "")
            watching.judge(served)
        if number % 100 == 3:
            watching.unread("not seen")
    series = {each.name: each.values for each in watching.series("tiny")}
    turns = series["keel_drift_turns"]
    assert {labels[1] for labels in turns} == {"s0", "s1", "s2", "others"}
    assert sum(turns.values()) == 250 * (6 + 2 + 3 + 1)
    assert len(turns) == 4 * 5
    lines = [line for line in exposed(watching.series("tiny")) if not line.startswith("#")]
    assert len(lines) == 24 + 4 * 5


def exposed(series):
    """The lines that Prometheus gets."""
    from keel.engines.vllm.metrics import _written

    pytest.importorskip("prometheus_client")
    return _written(series, "").decode().splitlines()


def judged(watching, texts, level, *, answer="x", **more):
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    turn = watching.namer.turn({"messages": messages, **more}, id=None, sender="")
    return watching.judge(ServedTurn(turn, answer, "low", sums(level), "")), turn


CONTINUED = {"continue_final_message": True}


def test_a_cut_answer_that_is_continued_is_one_turn(store):
    """The client sends its half answer to be gone on with, then both halves as one answer."""
    heard = []
    watching = watcher(store, listeners=(heard.append,))
    judged(watching, ["q1"], 1.0, answer="a1")
    judged(watching, ["q1", "a1", "q2"], 0.9, answer="The sea")
    judged(watching, ["q1", "a1", "q2", "The sea"], 0.8, answer=" is wide", **CONTINUED)
    judged(watching, ["q1", "a1", "q2", "The sea is wide", "q3"], 0.1)
    assert [event["turn"] for event in heard] == [1, 2, 2, 3]
    monitor = Monitor(alarm())
    levels = [1.0, 0.8, 0.1]  # that of the second turn is its continuation's
    offline = [monitor.turn("c", mean=2.0 + 4.0 * level, tokens=40) for level in levels]
    assert heard[-1]["evidence"] == pytest.approx(offline[-1].evidence, abs=1e-3)
    series = {each.name: each.values for each in watching.series("tiny")}
    assert series["keel_drift_state_misses"] == {("tiny",): 0}


def test_a_first_answer_that_is_continued_begins_one_conversation(store):
    """It counted as two, of which the fleet's rule expects twice the alarms."""
    watching = watcher(store)
    judged(watching, ["q1"], 1.0, answer="The sea")
    for begun, text in (("The sea", " is"), ("The sea is", " wide")):
        judged(watching, ["q1", begun], 0.9, answer=text, **CONTINUED)
    judged(watching, ["q1", "The sea is wide", "q2"], 0.8)
    judged(watching, ["other"], 1.0)
    series = {each.name: each.values for each in watching.series("tiny")}
    assert series["keel_drift_conversations"] == {("tiny",): 2}
    assert sum(minute["begun"] for minute in watching.recent()["minutes"]) == 2


def test_an_alarm_of_a_cut_answer_stays_when_it_is_continued(store):
    watching = watcher(store)
    texts = ["q0"]
    for number, level in enumerate(LEVELS):
        said, _ = judged(watching, texts, level, answer=f"a{number}")
        texts += [f"a{number}", f"q{number + 1}"]
    assert said["state"] == "alarm"
    again, turn = judged(watching, texts[:-1], 1.0, answer=" and on", **CONTINUED)
    assert watching.has_alarmed(turn)
    assert (again["state"], again["since"]) == ("alarm", said["since"])
    series = {each.name: each.values for each in watching.series("tiny")}
    assert series["keel_drift_alarms"] == {("tiny",): 1}


def test_a_conversation_that_was_forgotten_begins_anew_and_is_counted(store):
    watching = watcher(store)
    store.most = 0
    store.sweep()
    messages = [{"role": r, "content": r} for r in ("user", "assistant", "user")]
    turn = watching.namer.turn({"messages": messages}, id=None, sender="")
    watching.judge(ServedTurn(turn, "x", "low", sums(1.0), ""))
    series = {each.name: each.values for each in watching.series("tiny")}
    assert series["keel_drift_state_misses"] == {("tiny",): 1}


def test_a_state_that_cannot_be_read_begins_the_conversation_anew_with_a_line(store, capsys):
    watching = watcher(store)
    store.put(b"k", b"broken")
    said = watching.judge(ServedTurn(MessageTurn(b"k", ()), "x", "low", sums(1.0), ""))
    assert said["state"] == "ok"
    assert "begins anew, as its state is damaged: 6 bytes" in capsys.readouterr().err


def test_a_conversation_is_kept_as_it_was_and_the_levels_of_its_last_32_turns():
    state, kept = State(), KeptConversation(entry=7)
    for number in range(40):
        level = 1.0 - number / 40
        state, _ = advance(alarm(), state, 2.0 + 4.0 * level, 40)
        kept = kept.after(state, level)
    again = KeptConversation.from_bytes(kept.to_bytes())
    assert (again.state, again.entry, again.is_foreign) == (state, 7, False)
    assert again.gaps == pytest.approx([1.0 - n / 40 for n in range(8, 40)], abs=1e-3)
    with pytest.raises(CorruptArtifactError):
        KeptConversation.from_bytes(kept.to_bytes()[:20])


def test_the_last_hour_holds_turns_alarms_clients_and_alarmed_conversations(store):
    watching = watcher(store)
    said_over(watching)
    said_over(watching, [1.0], sender="Bearer 2")
    watching.unread("not seen")
    recent = watching.recent()
    sums = {key: sum(m[key] for m in recent["minutes"]) for key in ("turns", "begun", "alarms")}
    assert sums == {"turns": 7, "begun": 2, "alarms": 1}
    assert sum(minute["unread"] for minute in recent["minutes"]) == 1
    (mean,) = {round(m["gaps"], 3) for m in recent["minutes"] if m["turns"] == 7} or {None}
    assert mean is None or mean == round((sum(LEVELS) + 1.0) / 7, 3)  # None: a minute has turned
    assert recent["clients"]["low"]["count"] == 2
    (shown,) = recent["alarmed"]
    assert shown["gaps"] == pytest.approx(LEVELS, abs=1e-3)
    assert (shown["turns"], shown["since"], shown["setting"]) == (6, 3, "low")


def test_only_the_latest_alarms_and_the_last_hour_are_kept(store, monkeypatch):
    watching = watcher(store)
    for _ in range(25):
        said_over(watching, [-0.6] * 4)
    assert len(watching.recent()["alarmed"]) == 20
    now = time.time() + 3700
    monkeypatch.setattr("keel.serve.recent.time.time", lambda: now)
    watching.unread("not seen")
    recent = watching.recent()
    assert sum(minute["turns"] for minute in recent["minutes"]) == 0
    assert recent["clients"] == {}
    assert store.base.execute("SELECT COUNT(*) FROM minutes").fetchone() == (1,)


def test_a_disk_that_takes_no_more_keeps_no_verdict_back_and_is_named_once(store, capsys):
    watching = watcher(store)
    said_over(watching, [1.0])
    pages = store.base.execute("PRAGMA page_count").fetchone()[0]
    store.base.execute(f"PRAGMA max_page_count={pages}")
    for number in range(200):
        said = said_over(watching, [1.0], sender=f"{number}")
        assert said[0]["state"] == "ok"
    unkept = watching.recent()["unkept"]
    assert unkept > 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("keel: NOT watching, turns cannot be kept: ")
    assert len(lines) == 1
    store.base.execute(f"PRAGMA max_page_count={10 * pages}")
    said_over(watching, [1.0])
    assert store.counts()["unread|not kept"] == unkept
    assert watching.recent()["unkept"] == 0


def asked_under(watching, system, *, id="r1", **more):
    turn = watching.namer.turn({"instructions": system, "input": "a", **more}, id=None, sender="")
    return watching.judge(ServedTurn(turn, "x", "low", sums(1.0), "", id))


def test_under_another_system_prompt_than_the_calibrated_a_turn_is_foreign(store):
    calibrated = alarm(system_sha256=system_hash("You are the help desk."))
    watching = Watcher(calibrated, store, Namer(store.secret))
    assert asked_under(watching, "You are the help desk.")["state"] == "ok"
    goes_on = {"previous_response_id": "r1"}
    assert asked_under(watching, None, **goes_on)["state"] == "ok"
    said = asked_under(watching, "You are a pirate.", id="r2")
    assert (said["state"], said["evidence"]) == ("foreign", None)
    assert said["reason"] == "the system prompt is not the calibrated one"
    assert asked_under(watching, None, previous_response_id="r2")["state"] == "foreign"
    series = {each.name: each.values for each in watching.series("tiny")}
    assert series["keel_drift_turns"] == {("tiny", "low", "ok"): 2, ("tiny", "low", "foreign"): 2}
    assert series["keel_drift_conversations"] == {("tiny",): 1}


def test_a_conversation_whose_first_answer_is_empty_goes_on_at_its_second_turn(store):
    """Its second answer was held against the level of first turns, and counted as a miss."""
    watching = Watcher(alarm(expected=(1.0, 0.2)), store, Namer(store.secret))
    messages = [{"role": "user", "content": "a"}]
    turn = watching.namer.turn({"messages": messages}, id=None, sender="")
    watching.unread("no content", ServedTurn(turn, "", "low", AnswerSums(0, 0.0, 0.0, 0.0), ""))
    messages += [{"role": "assistant", "content": ""}, {"role": "user", "content": "b"}]
    turn = watching.namer.turn({"messages": messages}, id=None, sender="")
    said = watching.judge(ServedTurn(turn, "x", "low", sums(0.2), ""))
    offline = Monitor(watching.alarm)
    offline.turn("c", mean=0.0, tokens=0)
    verdict = offline.turn("c", mean=2.0 + 4.0 * 0.2, tokens=40)
    assert verdict.expected_gaps == 0.2
    assert said["evidence"] == pytest.approx(verdict.evidence, abs=1e-4)
    series = {each.name: each.values for each in watching.series("tiny")}
    assert series["keel_drift_state_misses"] == {("tiny",): 0}
    assert series["keel_drift_conversations"] == {("tiny",): 1}


def test_a_response_after_an_empty_first_answer_knows_its_system_prompt(store):
    calibrated = alarm(system_sha256=system_hash("You are the help desk."))
    watching = Watcher(calibrated, store, Namer(store.secret))
    body = {"instructions": "You are a pirate.", "input": "a"}
    turn = watching.namer.turn(body, id=None, sender="")
    watching.unread("no content", ServedTurn(turn, "", "low", sums(0, 0), "", "r1"))
    assert asked_under(watching, None, id="r2", previous_response_id="r1")["state"] == "foreign"


FULL = """
import resource, signal, sys
from pathlib import Path
from keel.serve.conversations import ConversationStore
from keel.serve.sinks import jsonl_sink
from tests.serve.test_watcher import said_over, watcher

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
watching, log = watcher(ConversationStore(folder / "c.sqlite")), jsonl_sink(folder / "log")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for number in range(120):
    for said in said_over(watching, [1.0, 0.9], sender=str(number)):
        assert said["state"] == "ok"
        log({**said, "more": "x" * 900})
assert log.drain(30)
assert watching.unkept.total() > 50 and log.lost > 50
assert any(each.name == "keel_drift_turns" and each.values for each in watching.series("m"))
"""


def test_files_that_may_not_grow_any_more_keep_no_verdict_back(tmp_path):
    """As on a full disk, but for a limit on the size of files: of the state's and the log's."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([f"{root}/src", root])}
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stderr.splitlines()
    assert any(line.startswith("keel: NOT watching, turns cannot be kept: ") for line in lines)
    assert any("log has lost 1 events" in line for line in lines)
    assert len(lines) <= 9  # the 1st, 2nd, 4th, 8th, ... of the log
