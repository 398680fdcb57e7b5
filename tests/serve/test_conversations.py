"""Whose conversation a request goes on with, and what is kept of it."""

import sqlite3
import time

import pytest

from keel.serve.answer_shapes import parts_of
from keel.serve.conversations import ConversationStore, Namer, messages_of

NAMER = Namer(b"k" * 32)
FIRST = {"messages": [{"role": "user", "content": "Hello there"}]}


def said(*texts):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]}


def turn(body, id=None, sender=""):
    return NAMER.turn(body, id=id, sender=sender)


def after(body, answer, **asked):
    return NAMER.after(turn(body, **asked), answer, asked.get("sender", ""))


def test_a_conversation_begins_without_a_past():
    assert turn(FIRST).key is None


def test_the_next_turn_is_known_by_the_messages_up_to_the_last_answer():
    assert turn(said("a", "b", "c")).key == after(said("a"), "b")


def test_branches_share_their_past_and_a_changed_message_begins_anew():
    assert turn(said("a", "b", "c")).key == turn(said("a", "b", "d")).key
    assert turn(said("a", "B", "c")).key != turn(said("a", "b", "c")).key
    assert turn(said("A", "b", "c")).key != turn(said("a", "b", "c")).key


def test_a_client_that_trims_the_answer_it_sends_back_goes_on_with_its_conversation():
    assert turn(said("a", "b", "c")).key == after(said("a"), "  b\n")


def continuing(*texts, **more):
    return {**said(*texts), "add_generation_prompt": False, "continue_final_message": True, **more}


@pytest.mark.parametrize("history", [("a",), ("a", "b", "c")])
def test_an_answer_that_is_continued_belongs_to_the_conversation_before_it(history):
    """Whether its beginning is the client's, or an answer that was cut: it began a conversation
    anew, and so did the turn after it."""
    assert turn(continuing(*history, "The sea")).key == turn(said(*history)).key
    whole = turn(said(*history, "The sea is wide.", "d")).key
    assert after(continuing(*history, "The sea"), " is wide.") == whole
    assert after(continuing(*history, "The s"), "ea is wide.") == whole
    assert after(continuing(*history, "The sea", echo=True), "The sea is wide.") == whole


def test_an_answer_is_continued_only_where_vllm_continues_it():
    asked = {**said("a", "b"), "continue_final_message": False}
    assert turn(asked).key == turn(said("a", "b", "c")).key
    assert turn(continuing("a", "b", "c")).key == turn(said("a", "b", "c")).key


def test_content_in_parts_is_its_text():
    parts = [{"type": "text", "text": "b"}]
    body = {"messages": [*said("a")["messages"], {"role": "assistant", "content": parts}]}
    assert turn(body).key == after(said("a"), "b")


CALLED = {
    "chat": lambda id: [
        {"role": "assistant", "content": None, "tool_calls": [{"id": id, "type": "function"}]},
        {"role": "tool", "tool_call_id": id, "content": "7"},
    ],
    "messages": lambda id: [
        {"role": "assistant", "content": [{"type": "tool_use", "id": id, "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "7"}]},
    ],
}


@pytest.mark.parametrize("form", CALLED)
def test_answers_that_only_call_a_tool_are_told_apart_by_their_calls(form):
    """Their text is empty: branches of one chat went on with each other's levels."""
    first, second = (
        {"messages": [*FIRST["messages"], *CALLED[form](id)]} for id in ("call-1", "call-2")
    )
    assert turn(first).key == after(FIRST, "call-1")
    assert turn(first).key != turn(second).key
    answered = [{"role": "assistant", "content": "It is 7."}]
    keys = {turn({"messages": [*b["messages"], *answered]}).key for b in (first, second)}
    assert len(keys) == 2


def call(id):
    return {"type": "function_call", "id": f"fc_{id}", "call_id": id, "name": "f", "arguments": ""}


def result(id):
    return {"type": "function_call_output", "call_id": id, "output": "7"}


THOUGHT = {"type": "reasoning", "summary": [], "content": [{"text": "hm"}]}
SPOKEN = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "I look."}],
}
ANSWERS = {
    "a call": [call("c1")],
    "two calls": [call("c1"), call("c2")],
    "words and a call": [SPOKEN, call("c1")],
    "thoughts and words": [THOUGHT, SPOKEN],
    "thoughts, words and a call": [THOUGHT, SPOKEN, call("c1")],
    "another kind of call": [{"type": "custom_tool_call", "call_id": "c1", "input": "x"}],
}


@pytest.mark.parametrize("output", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("is_thought_kept", [True, False])
def test_a_client_that_sends_a_responses_items_back_goes_on_with_its_conversation(
    output, is_thought_kept
):
    """Answers that only called a tool, or had been thought about, began a new one: their items
    have no role, and are several where the answer is one."""
    first = {"input": [{"role": "user", "content": "Weather?"}]}
    [answer] = parts_of({"object": "response", "status": "completed", "output": output})
    sent = [item for item in output if is_thought_kept or item is not THOUGHT]
    results = [result(item["call_id"]) for item in output if "call_id" in item]
    second = {"input": [*first["input"], *sent, *results, {"role": "user", "content": "And?"}]}
    assert turn(second).key == after(first, answer.text)
    assert turn(second).key is not None
    third = {"input": [*second["input"], SPOKEN, {"role": "user", "content": "Bye"}]}
    assert turn(third).key == after(second, "I look.")


def test_calls_of_other_ids_are_another_conversation():
    first, second = ({"input": [{"role": "user", "content": "a"}, call(id)]} for id in "12")
    assert turn(first).key != turn(second).key


def test_a_system_prompt_beside_the_messages_is_a_part_of_the_conversation():
    assert turn({**said("a", "b", "c"), "system": "x"}).key != turn(said("a", "b", "c")).key
    assert list(messages_of({"instructions": "x", "input": "a"})) == [
        ("system", "x"),
        ("user", "a"),
    ]


def test_clients_with_other_keys_do_not_share_conversations():
    assert turn(said("a", "b", "c"), sender="Bearer 1").key != after(said("a"), "b")


def test_servers_make_other_keys_of_the_same_messages():
    other = Namer(b"l" * 32).turn(said("a", "b", "c"), id=None, sender="").key
    assert other != turn(said("a", "b", "c")).key


def test_an_id_that_the_client_sends_goes_before_the_messages():
    first, second = turn(said("a"), id="7"), turn(said("z", "y", "x"), id="7")
    assert first.key == second.key == after(said("q"), "r", id="7")
    assert turn(said("a"), id="8").key != first.key


def test_a_response_is_gone_on_with_by_its_id():
    body = {"input": "more", "previous_response_id": "resp_1"}
    assert turn(body).key == NAMER.of_id("resp_1", "")


@pytest.fixture
def store(tmp_path):
    kept = ConversationStore(tmp_path / "c.sqlite", most=300)
    yield kept
    kept.close()


def test_processes_of_one_server_share_states_counts_and_the_secret(store, tmp_path):
    other = ConversationStore(tmp_path / "c.sqlite")
    store.put(b"a", b"1")
    store.count({"turns": 1})
    other.put(b"b", b"2")
    other.count({"turns": 1, "gaps": 0.5})
    assert (other.get(b"a"), store.get(b"b")) == (b"1", b"2")
    assert store.counts() == {"turns": 2, "gaps": 0.5}
    assert store.secret == other.secret
    other.close()


def test_the_least_lately_used_go_first(store):
    for n in range(1024):
        store.put(f"{n}".encode(), b"x")
    store.sweep()
    assert store.size == 300
    assert store.get(b"1023") == b"x"
    assert store.get(b"0") is None


def test_a_state_that_is_too_old_is_gone(store):
    store.put(b"a", b"1")
    store.time_to_live_s = 0.01
    time.sleep(0.05)
    assert store.get(b"a") is None
    store.sweep()
    assert store.size == 0


def test_a_hundred_thousand_conversations_take_less_than_a_hundred_megabytes(tmp_path):
    """Each of 12 turns: 44 + 12 · 20 bytes of state, 10 + 12 · 2 of levels; a hundredth here."""
    store = ConversationStore(tmp_path / "c.sqlite")
    for n in range(1000):
        store.put(n.to_bytes(16, "big"), bytes(320))
    store.base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    assert (tmp_path / "c.sqlite").stat().st_size < 1000 * 1000


def test_what_is_written_together_is_kept_whole_or_not_at_all(store):
    with pytest.raises(sqlite3.Error), store.writing():
        store.put(b"a", b"1")
        store.count({"turns": 1})
        store.base.execute("SELECT nothing FROM nowhere")
    assert store.get(b"a") is None
    assert store.counts() == {}


def test_the_system_prompt_of_a_turn_is_as_it_was_sent():
    system = "You are  a\nhelp desk."
    parts = [{"type": "text", "text": system}]
    for body in (
        {"messages": [{"role": "system", "content": system}]},
        {"messages": [{"role": "developer", "content": parts}]},
        {"system": parts, "messages": []},
        {"instructions": system, "input": "a"},
    ):
        assert turn(body).system == system
    assert turn(FIRST).system is None
