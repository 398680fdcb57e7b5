"""keel drift calibrate and keel drift watch, on a tiny model."""

import json
import signal
import subprocess
import sys

import pytest

from keel.cli import run as run_command
from tests.cli.commands import CPU

SIMULATED = ("--simulate", "12", "--turns", "2", "--max-new-tokens", "20", *CPU)


@pytest.fixture(scope="module")
def alarmed_run(held_run, tmp_path_factory):
    """A run with an alarm. To be read only."""
    import shutil

    path = tmp_path_factory.mktemp("alarmed") / "run"
    shutil.copytree(held_run, path)
    assert run_command(["drift", "calibrate", str(path), *SIMULATED]) == 0
    return path


def lines_of(run, levels) -> str:
    alarm = json.loads((run / "alarm.json").read_text())["value"]
    rows = [
        {"conversation": "c", "mean": alarm["zero"] + alarm["gap"] * level, "tokens": 400}
        for level in levels
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_calibrate_says_on_what_and_what_to_expect(keel, held):
    first = keel("drift", "calibrate", held, *SIMULATED)
    assert first.code == 0
    for words in (
        "12 conversations",
        "below the floors",
        "held-out",
        "is detected in",
        "neighbouring turns",
    ):
        assert words in first.out
    again = keel("drift", "calibrate", held, *SIMULATED, "--json")
    assert "simulating conversations: 12/12" in again.err  # all kept, none answered again
    assert again.json["fit"]["conversations"] == 12
    assert again.json["layer"] < again.json["layer_choice"]["first_capped"]


def test_a_layer_in_the_band_is_refused(keel, held):
    outcome = keel("drift", "calibrate", held, *SIMULATED, "--layer", "3")
    assert outcome.code == 3
    assert "every turn stands at its floor" in outcome.err


def test_floors_from_the_first_layer_on_leave_none_for_an_alarm(keel, bare):
    """It ended in a traceback of max()."""
    floors = ("--percentile", "50", "--band", "0:2", "--answers", "4", *CPU)
    assert keel("calibrate", bare, *floors).code == 0
    outcome = keel("drift", "calibrate", bare, *SIMULATED)
    assert outcome.code == 3
    assert "no layer is left for an alarm" in outcome.err


def test_nothing_to_calibrate_on_is_refused(keel, held):
    outcome = keel("drift", "calibrate", held, *CPU)
    assert outcome.code == 3
    assert "--simulate 100" in outcome.err


def test_few_logs_are_refused_before_a_model_is_loaded(keel, held, place):
    (place / "logs.json").write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"}]}))
    outcome = keel("drift", "calibrate", held, "--chats", "logs.json", *CPU)
    assert outcome.code == 3
    assert "no assistant turn" in outcome.err


@pytest.mark.parametrize(("count", "answers"), [(1, 3), (9, 3), (12, 1)])
def test_too_few_logs_are_refused_before_a_model_is_loaded(keel, held, place, count, answers):
    """The model was loaded and had read them all before the refusal."""
    said = [("user", "Hi"), ("assistant", "Hello there, my friend")] * answers
    messages = [{"role": role, "content": text} for role, text in said]
    rows = (json.dumps({"id": str(number), "messages": messages}) for number in range(count))
    (place / "logs.jsonl").write_text("\n".join(rows))
    outcome = keel("drift", "calibrate", held, "--chats", "logs.jsonl", *CPU)
    assert outcome.code == 3
    usable = count if answers > 1 else 0
    assert f"{usable} of {count} conversations have two answers, expected 10" in outcome.err
    assert "loading" not in outcome.err
    assert "reading" not in outcome.err


def test_a_stream_of_turns_is_answered_line_by_line(keel, alarmed_run, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(lines_of(alarmed_run, [-30.0] * 4)))
    outcome = keel("drift", "watch", alarmed_run, "-", "--json")
    assert outcome.code == 4
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert [row["turn"] for row in rows] == [0, 1, 2, 3]
    assert rows[-1]["state"] == "alarm"


def test_a_watch_with_a_state_goes_on_where_it_stopped(keel, alarmed_run, tmp_path):
    """A log that grows, its last line torn: each turn is counted once, over three calls."""
    levels = [0.2, -0.4, -0.6, -0.8, -1.0]
    log, state = tmp_path / "turns.jsonl", tmp_path / "turns.state"
    lines = lines_of(alarmed_run, levels).splitlines(keepends=True)
    log.write_text("".join(lines))
    whole = keel("drift", "watch", alarmed_run, log, "--json").out.splitlines()
    answered = []
    for written in (
        lines[0] + lines[1] + lines[2][:20],
        "".join(lines[:4]).rstrip(),
        "".join(lines),
    ):
        log.write_text(written)
        outcome = keel("drift", "watch", alarmed_run, log, "--json", "--state", state)
        assert outcome.code in (0, 4)
        answered.append(outcome.out.splitlines())
    assert [len(each) for each in answered] == [2, 2, 1]
    assert [line for each in answered for line in each] == whole


def test_a_stream_with_a_state_goes_on_after_it_was_broken_off(
    keel, alarmed_run, tmp_path, monkeypatch
):
    import io

    state = tmp_path / "turns.state"
    for turns in ([0, 1], [2]):
        stream = io.StringIO(lines_of(alarmed_run, [0.5] * len(turns)) + '{"conversation": "MARKER')
        monkeypatch.setattr("sys.stdin", stream)
        outcome = keel("drift", "watch", alarmed_run, "-", "--json", "--state", state)
        assert outcome.code == 3  # the torn line
        assert [json.loads(line)["turn"] for line in outcome.out.splitlines()] == turns
    assert b"MARKER" not in state.read_bytes()


def test_a_watch_that_is_killed_goes_on_and_counts_no_line_twice_and_none_never(
    keel, alarmed_run, tmp_path
):
    """kill -9 of a real process, at several lines of a log: each turn's evidence at the end is that
    of one call that nobody killed."""
    log, state = tmp_path / "turns.jsonl", tmp_path / "turns.state"
    log.write_text(lines_of(alarmed_run, [0.9, 0.4, -0.2, 0.1, 0.3] * 200))
    call = ["drift", "watch", str(alarmed_run), str(log), "--json"]
    whole = keel(*call)
    expected = [json.loads(line) for line in whole.out.splitlines()]
    assert len(expected) == 1000
    call += ["--state", str(state)]
    command = [sys.executable, "-m", "keel", *call]
    seen = list[dict[str, object]]()
    for lines in (150, 300):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            seen += [json.loads(process.stdout.readline()) for _ in range(lines)]
            process.kill()
            assert process.wait() == -signal.SIGKILL
            rest = process.stdout.read().splitlines(keepends=True)
            seen += [json.loads(line) for line in rest if line.endswith("\n")]
    last = keel(*call)
    assert last.code == whole.code
    seen += [json.loads(line) for line in last.out.splitlines()]
    # A turn that was kept but not yet printed is not said again, so a kill may swallow one line.
    assert len(expected) - len(seen) in range(3)
    by_turn = {each["turn"]: each for each in expected}
    assert [each["turn"] for each in seen] == sorted({each["turn"] for each in seen})
    assert all(each == by_turn[each["turn"]] for each in seen)
    assert seen[-1] == expected[-1]


def test_a_state_of_another_alarm_a_broken_one_and_one_for_transcripts_are_refused(
    keel, alarmed_run, tmp_path
):
    log, state = tmp_path / "turns.jsonl", tmp_path / "turns.state"
    log.write_text(lines_of(alarmed_run, [0.5]))
    assert keel("drift", "watch", alarmed_run, log, "--state", state).code == 0
    other = keel("drift", "watch", alarmed_run, log, "--state", state, "--rate", "0.2")
    assert other.code == 3
    assert "at rate 0.01, expected" in other.err
    state.write_text("no state at all, but long enough to be taken for something" * 9)
    broken = keel("drift", "watch", alarmed_run, log, "--state", state)
    assert broken.code == 3
    assert "holds no state of a watch" in broken.err
    assert state.read_text().startswith("no state at all")
    talk = tmp_path / "talk.json"
    talk.write_text(json.dumps({"messages": [{"role": "assistant", "content": "Hello"}]}))
    refused = keel("drift", "watch", alarmed_run, talk, "--state", state)
    assert refused.code == 3
    assert "leave out --state" in refused.err


def test_turns_from_a_file_without_an_alarm_exit_0(keel, alarmed_run, tmp_path):
    path = tmp_path / "turns.jsonl"
    path.write_text(lines_of(alarmed_run, [1.0]))
    outcome = keel("drift", "watch", alarmed_run, path)
    assert outcome.code == 0
    assert "expected" in outcome.out


def test_a_line_that_is_no_turn_is_named(keel, alarmed_run, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO('{"conversation": "c"}\n'))
    outcome = keel("drift", "watch", alarmed_run, "-")
    assert outcome.code == 3
    assert "line 1 is" in outcome.err


def test_transcripts_are_read_and_watched(keel, alarmed_run, tmp_path):
    path = tmp_path / "talk.json"
    said = [("user", "Hello, who are you?"), ("assistant", "I am here to help you with that.")]
    messages = [{"role": role, "content": content} for role, content in said]
    path.write_text(json.dumps({"messages": messages}))
    outcome = keel("drift", "watch", alarmed_run, path, *CPU, "--json")
    assert outcome.code in (0, 4)
    (watched,) = json.loads(outcome.out)
    assert watched["verdicts"][0]["turn"] == 0


def test_a_run_without_an_alarm_says_how_to_make_it(keel, held):
    outcome = keel("drift", "watch", held, "-")
    assert outcome.code == 3
    assert "keel drift calibrate" in outcome.err


def test_chat_and_drift_say_what_the_alarm_says(keel, alarmed_run, tmp_path, monkeypatch):
    import io
    import shutil

    run = shutil.copytree(alarmed_run, tmp_path / "run")
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nWho are you?\n/reset\nHello\n"))
    chat = keel("chat", run, "--json", "--max-new-tokens", "8", *CPU)
    rows = [json.loads(line) for line in chat.out.splitlines()]
    assert [row["alarm"]["turn"] for row in rows] == [0, 1, 0]
    path = tmp_path / "talk.json"
    said = [("user", "Hello, who are you?"), ("assistant", "I am here to help you with that.")]
    messages = [{"role": role, "content": content} for role, content in said]
    path.write_text(json.dumps({"messages": messages}))
    (reading,) = keel("drift", run, path, *CPU, "--json", "--alone").json
    (turn,) = reading["turns"]
    alarm = json.loads((run / "alarm.json").read_text())["value"]
    (levels,) = [each for each in alarm["levels"] if each["layer"] == reading["layer"]]
    assert turn["expected_gaps"] == pytest.approx(levels["means"][0])
    assert turn["gaps_alone"] == turn["gaps"]  # a first turn has no history
    assert rows[1]["expected_gaps"] == pytest.approx(levels["means"][1])
    assert reading["alarm"][0]["threshold"] == pytest.approx(100)
