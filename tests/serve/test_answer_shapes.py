"""Verdicts in the answers of four endpoints, whole and streamed; all else stays as it was."""

import json

import pytest

from keel.serve.answer_shapes import AnswerStream

VERDICT = {"state": "ok"}


def judged():
    """A stream, and the (index, text, id) that it judges."""
    seen = []

    def judge(part, text):
        if part.ended is None:
            return None
        seen.append((part.index, text, part.id))
        return VERDICT

    return AnswerStream(judge), seen


def choice(index=0, finish="stop", **more):
    return {"index": index, "finish_reason": finish, **more}


WHOLE = {
    "chat": {"choices": [choice(message={"role": "assistant", "content": "ab"})]},
    "completion": {"choices": [choice(text="ab")]},
    "response": {
        "object": "response",
        "id": "r1",
        "status": "completed",
        "output": [
            {"type": "reasoning", "content": [{"text": "hm"}]},
            {"type": "message", "content": [{"type": "output_text", "text": "ab"}]},
        ],
    },
    "message": {
        "type": "message",
        "content": [{"type": "text", "text": "ab"}],
        "stop_reason": "end_turn",
    },
}


@pytest.mark.parametrize("kind", WHOLE)
def test_an_answer_in_one_piece_gets_its_verdict(kind):
    stream, seen = judged()
    content = json.loads(stream.whole(json.dumps(WHOLE[kind]).encode()))
    assert [text for _, text, _ in seen] == ["ab"]
    ended = content["choices"][0] if "choices" in content else content
    assert ended.pop("keel") == VERDICT
    assert content == WHOLE[kind]


def test_each_of_several_answers_gets_its_own():
    stream, seen = judged()
    answers = [choice(n, message={"content": f"t{n}"}) for n in range(3)]
    content = json.loads(stream.whole(json.dumps({"choices": answers}).encode()))
    assert seen == [(0, "t0", None), (1, "t1", None), (2, "t2", None)]
    assert all(each["keel"] == VERDICT for each in content["choices"])


def event(content, name=""):
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(content)}\n\n".encode()


STREAMS = {
    "chat": [
        event({"choices": [choice(finish=None, delta={"role": "assistant", "content": ""})]}),
        event({"choices": [choice(finish=None, delta={"content": "a"})]}),
        event({"choices": [choice(delta={"content": "b"})]}),
        event({"choices": [], "usage": {}}),
        b"data: [DONE]\n\n",
    ],
    "response": [
        event({"type": "response.created", "response": {"object": "response", "output": []}}),
        event({"type": "response.output_text.delta", "delta": "ab"}),
        event({"type": "response.completed", "response": WHOLE["response"]}, "response.completed"),
    ],
    "message": [
        event({"type": "message_start", "message": {"type": "message", "content": []}}),
        event({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "ab"}}),
        event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, "message_delta"),
    ],
}


@pytest.mark.parametrize("cut", [1, 7, 10_000], ids=lambda cut: f"{cut} bytes at a time")
@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_gets_it_in_the_event_that_ends_the_answer(kind, cut):
    stream, seen = judged()
    whole = b"".join(STREAMS[kind])
    chunks = [whole[n : n + cut] for n in range(0, len(whole), cut)]
    sent = b"".join(
        stream.events(chunk, is_last=n == len(chunks) - 1) for n, chunk in enumerate(chunks)
    )
    assert [text for _, text, _ in seen] == ["ab"]
    assert sent.count(b'"keel": {"state": "ok"}') == 1
    assert sent.replace(b', "keel": {"state": "ok"}', b"") == whole


def test_an_error_in_place_of_an_answer_passes_as_it_is():
    stream, seen = judged()
    for body in (b'{"error": {"message": "no"}}', b"not json", b"[1]"):
        assert stream.whole(body) == body
    assert not seen


def events(*contents):
    return b"".join(b"data: " + json.dumps(content).encode() + b"\n\n" for content in contents)


CALL = [{"index": 0, "id": "call-1", "type": "function"}]
USE = {"type": "tool_use", "id": "call-1", "name": "f", "input": {}}
CALLING = {
    "chat": {"choices": [choice(message={"content": None, "tool_calls": CALL})]},
    "message": {"type": "message", "content": [USE], "stop_reason": "tool_use"},
}
CALLING_STREAMED = {
    "chat": events(
        {"choices": [choice(finish=None, delta={"tool_calls": CALL})]},
        {"choices": [choice(finish=None, delta={"tool_calls": [{"index": 0, "id": None}]})]},
        {"choices": [choice(finish="tool_calls", delta={})]},
    ),
    "message": events(
        {"type": "content_block_start", "index": 0, "content_block": USE},
        {"type": "content_block_delta", "delta": {"type": "input_json_delta"}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
    ),
}


RESPONDING = {
    "object": "response",
    "id": "r1",
    "output": [{"type": "function_call", "call_id": "call-1"}],
}


@pytest.mark.parametrize(
    ("content", "calls"),
    [
        *((content, True) for content in CALLING.values()),
        *((content, False) for content in WHOLE.values()),
        (RESPONDING, True),
        ({**RESPONDING, "output": [*RESPONDING["output"], {"type": "message"}]}, False),
        ({"choices": [choice(message={"content": "", "function_call": {"name": "f"}})]}, True),
    ],
)
def test_whether_an_answer_calls_a_tool_is_seen_whole_and_streamed(content, calls):
    """A response that goes on after a call of vLLM's own tool ends as an answer."""
    seen = []
    AnswerStream(lambda part, _: seen.append(part.calls_tool)).whole(json.dumps(content).encode())
    assert seen == [calls]


@pytest.mark.parametrize("kind", CALLING_STREAMED)
def test_whether_a_streamed_answer_calls_a_tool_is_known_at_its_end(kind):
    seen = []

    def judge(part, _):
        seen.extend([part.calls_tool] if part.ended is not None else [])

    AnswerStream(judge).events(CALLING_STREAMED[kind], is_last=True)
    assert seen == [True]


@pytest.mark.parametrize("kind", CALLING)
def test_an_answer_that_calls_a_tool_is_known_by_its_call(kind):
    stream, seen = judged()
    stream.whole(json.dumps(CALLING[kind]).encode())
    streamed, seen_streamed = judged()
    streamed.events(CALLING_STREAMED[kind], is_last=True)
    assert [text for _, text, _ in seen] == [text for _, text, _ in seen_streamed] == ["call-1"]
