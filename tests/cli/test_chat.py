"""A conversation through a pipe: answers on stdout, the needle on stderr, commands in between."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import keel as library
from tests.cli.commands import CPU, Outcome

SHORT = ("--max-new-tokens", "6", "--temperature", "0", *CPU)


@dataclass
class Chat:
    """`keel chat`, told these lines."""

    keel: Any
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, run: Path, *lines: str, options: tuple[str, ...] = ()) -> Outcome:
        told = io.StringIO("".join(f"{line}\n" for line in lines))
        self.monkeypatch.setattr("sys.stdin", told)
        outcome = self.keel("chat", run, *SHORT, *options)
        assert outcome.code == 0, outcome.err
        return outcome

    def answers(self, run: Path, *lines: str, options: tuple[str, ...] = ()) -> list[Any]:
        """One JSON object per answer."""
        outcome = self(run, *lines, options=("--json", *options))
        return [json.loads(line) for line in outcome.out.splitlines()]


@pytest.fixture
def chat(keel, monkeypatch: pytest.MonkeyPatch) -> Chat:
    return Chat(keel, monkeypatch)


def test_every_answer_is_one_json_object_with_its_place(chat, held):
    found = chat.answers(held, "Who are you?", "And the sea?")
    assert [answer["turn"] for answer in found] == [0, 1]
    run = library.open_run(held)
    layer = min(run.floors.layers, key=lambda n: abs(n - run.axis.layer))
    for answer in found:
        assert answer["gaps"] == pytest.approx(run.axis.in_gaps(answer["projection"], layer))
        assert answer["firing_rate"] is None
        assert answer["is_capped"] is False


def test_in_words_the_answer_is_on_stdout_and_the_needle_on_stderr(chat, held):
    (answer,) = chat.answers(held, "Who are you?")
    found = chat(held, "Who are you?")
    # What streams leaves out a character at the end whose bytes never became whole.
    assert found.out == answer["text"].removesuffix("�") + "\n"
    assert f"{answer['gaps']:+.2f} gaps" in found.err


def test_the_model_is_capped_from_the_word_until_it_is_let_go(chat, held):
    found = chat.answers(held, "Hi", "/cap on", "Hi", "/cap off", "Hi")
    assert [answer["is_capped"] for answer in found] == [False, True, False]
    rates = [answer["firing_rate"] for answer in found]
    assert rates[0] is None
    assert rates[1] > 0
    assert rates[2] is None


def test_a_capped_answer_stands_at_its_floor_or_above(chat, held):
    """At a capped layer every token is raised to the floor, so their mean is."""
    run, name = library.open_run(held), "layers_2:4-p75"
    floors = run.floors_named(name)
    value = {floor.layer: floor.value for floor in floors}
    layer = min(floors.layers, key=lambda n: abs(n - run.axis.layer))
    setting = ("--setting", name)
    free, kept = (chat.answers(held, "Hi", options=o)[0] for o in (setting, ("--capped", *setting)))
    assert free["projection"] < value[layer]
    assert kept["projection"] >= value[layer] - 1e-3


def test_another_setting_caps_to_another_height(chat, held):
    low, high = (
        chat.answers(held, "Hi", options=("--capped", "--setting", f"layers_2:4-{p}"))[0]
        for p in ("p50", "p75")
    )
    assert low["firing_rate"] < high["firing_rate"]


def test_the_system_prompt_starts_the_conversation_over(chat, held):
    """Under it the same question has another answer's place; without it the first one's again."""
    found = chat.answers(held, "Hi", "/system You are a ghost.", "Hi", "/system", "Hi")
    assert [answer["turn"] for answer in found] == [0, 0, 0]
    first, ghost, last = (answer["projection"] for answer in found)
    assert first == last != ghost


def test_the_system_prompt_can_be_given_from_the_start(chat, held):
    given = chat.answers(held, "Hi", options=("--system", "You are a ghost."))
    assert given == chat.answers(held, "/system You are a ghost.", "Hi")


def test_reset_forgets_what_was_said(chat, held):
    first, second = chat.answers(held, "Hi", "/reset", "Hi")
    assert first == second


def test_what_was_said_before_is_remembered(chat, held):
    first, second = chat.answers(held, "Hi", "Hi")
    assert first["projection"] != second["projection"]


def test_a_saved_conversation_is_read_by_drift(chat, keel, held):
    chat(held, "/system You are a ghost.", "Who are you?", "And the sea?", "/save talk.json")
    saved = json.loads(Path("talk.json").read_text(encoding="utf-8"))
    roles = [message["role"] for message in saved["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    (found,) = keel("drift", held, "talk.json", *CPU, "--json").json
    texts = [message["content"] for message in saved["messages"] if message["role"] == "assistant"]
    assert [turn["text"] for turn in found["turns"]] == texts


def test_what_is_no_command_is_said_and_the_talk_goes_on(chat, held):
    found = chat(held, "/frob", "/cap sideways", "Hi", options=("--json",))
    assert "'/frob' is no command here; /help lists them" in found.err
    assert "'/cap sideways' is no command here" in found.err
    assert len(found.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/save talk.json", "nothing has been said yet"),
        ("/cap on", "no floors to cap with; make them: keel calibrate bare"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_talk_goes_on(chat, bare, line, said):
    found = chat(bare, line, "Hi", options=("--json",))
    assert said in " ".join(found.err.split())
    assert len(found.out.splitlines()) == 1
    assert not Path("talk.json").exists()


def test_a_place_that_cannot_be_written_to_is_said_and_the_talk_goes_on(chat, held):
    found = chat(held, "Hi", f"/save {held}/manifest.json/talk.json", "Hi", options=("--json",))
    assert "cannot write" in found.err
    assert len(found.out.splitlines()) == 2


def test_help_lists_every_command_and_empty_lines_ask_nothing(chat, held):
    found = chat(held, "", "   ", "/help", "/quit", "Hi")
    for command in ("/cap on", "/system", "/save", "/reset", "/quit"):
        assert command in found.err
    assert found.out == ""


def test_greedy_or_not_the_seed_decides_what_is_said(chat, held):
    def told(seed: str) -> str:
        return chat.answers(held, "Hi", options=("--temperature", "1", "--seed", seed))[0]["text"]

    assert told("1") == told("1") != told("2")


def test_a_chat_leaves_the_run_as_it_is(chat, held):
    before = sorted(p.name for p in held.rglob("*"))
    chat(held, "Hi", options=("--capped",))
    assert sorted(p.name for p in held.rglob("*")) == before


def test_what_the_context_cannot_hold_is_refused_and_the_talk_goes_on(chat, held):
    """Answers from past the context came without a word."""
    found = chat(held, "x" * 5000, "Hi", options=("--json",))
    said = " ".join(found.err.split())
    assert "chat/0 has 5,008 tokens" in said
    assert "the model's context holds 4,096" in said
    assert "; /reset starts over" in said
    assert [json.loads(line)["turn"] for line in found.out.splitlines()] == [0]


class _Interrupted(io.StringIO):
    """An output at whose third write somebody presses Ctrl-C, once."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        if self.writes == 3:
            raise KeyboardInterrupt
        return super().write(text)


def test_ctrl_c_ends_the_answer_and_keeps_what_was_said(
    chat, held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The conversation goes on: the next message is answered behind what was said."""
    monkeypatch.setattr("sys.stdout", _Interrupted())
    kept = tmp_path / "kept.json"
    found = chat(held, "Hi", "And now?", f"/save {kept}")
    assert "stopped; what was said is kept" in found.err
    messages = json.loads(kept.read_text(encoding="utf-8"))["messages"]
    assert [m["content"] for m in messages if m["role"] == "user"] == ["Hi", "And now?"]
    assert messages[1]["content"]


def test_retry_draws_anew_and_undo_takes_back(chat, held, tmp_path: Path):
    kept = tmp_path / "kept.json"
    warm = ("--temperature", "1")
    found = chat.answers(
        held, "Hi", "And?", "/retry", "/undo", "What?", f"/save {kept}", options=warm
    )
    assert [answer["turn"] for answer in found] == [0, 1, 1, 1]
    assert found[1]["text"] != found[2]["text"]
    messages = json.loads(kept.read_text(encoding="utf-8"))["messages"]
    assert [m["content"] for m in messages if m["role"] == "user"] == ["Hi", "What?"]


def test_both_shows_the_other_side_and_goes_on_with_the_chosen_one(chat, held):
    """The side that is not kept is what the same message gets with capping switched."""
    found = chat.answers(held, "/both Hi", "/cap on", "And?", "/both")
    assert [a["is_capped"] for a in found] == [False, True, True, False]
    assert [a["is_kept"] for a in found] == [True, False, True, False]
    (capped,) = chat.answers(held, "/cap on", "Hi")[-1:]
    assert found[1]["text"] == capped["text"]


def test_a_conversation_is_loaded_measured_and_gone_on_with(chat, held, tmp_path: Path):
    kept = tmp_path / "kept.json"
    said = chat.answers(held, "Hi", "And?", f"/save {kept}")
    loaded = chat.answers(held, f"/load {kept}", "Third?", "/undo", "/undo", "Second again?")
    assert [answer["turn"] for answer in loaded] == [0, 1, 2, 1]
    assert [answer["text"] for answer in loaded[:2]] == [answer["text"] for answer in said]


def test_commands_without_an_argument_say_what_they_do(chat, held):
    found = chat(held, "/cap", "/cap on", "/cap", "/save", "/load")
    for words in ("capping is off", "capping is on, by layers_", "/save talk.json", "/load talk"):
        assert words in found.err


def test_every_command_that_changes_something_says_what_holds_now(chat, held, tmp_path: Path):
    """`/cap on`, `/undo`, `/system` and `/reset` changed the chat in silence."""
    kept = tmp_path / "kept.json"
    chat(held, "Hi", f"/save {kept}")
    for line, said in (
        ("/cap on", "capping is on, by layers_2:4-p50; layers with a floor: 2, 3"),
        ("/cap off", "capping is off"),
        ("/undo", "taken back, with its answer; 1 message said before it"),
        ("/system You are a ghost.", "started over, under the system prompt “You are a ghost.”"),
        ("/system", "started over, no system prompt"),
        ("/reset", "started over, no system prompt"),
        (f"/load {kept}", f"{kept}: 2 messages"),
    ):
        found = chat(held, "Hi", "And?", line, options=("--json", "--setting", "layers_2:4-p50"))
        assert said in " ".join(found.err.split()), line
    begun = chat(held, options=("--capped", "--setting", "layers_2:4-p50"))
    assert "capping is on, by layers_2:4-p50" in begun.err


def test_nothing_can_be_taken_back_before_something_was_said(chat, held):
    found = chat(held, "/undo", "/retry", "/both")
    assert found.err.count("nothing has been said yet") == 3


def test_the_needle_is_explained_once(chat, held):
    assert chat(held, "Hi", "And?").err.count("The needle:") == 1
