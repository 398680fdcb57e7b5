"""A server that watches its conversations, asked as clients do: verdicts, and what they rest on."""

from __future__ import annotations

import importlib.util
import json
import time
import urllib.request
from dataclasses import replace

import pytest

from keel.alarm import Alarm, Monitor, State, advance
from keel.drift import read_conversations
from keel.engines import Recording, open_engine
from keel.steering import Probe
from keel.store import save_floors
from keel.store.alarms import write_alarm
from keel.types import Floors, ModelIdentity
from tests.engines.vllm.http_servers import get, keel_served, post
from tests.engines.vllm.serving_vllm import GREEDY, HIDDEN, LAYERS, band, by_index, prompt, tiny
from tests.engines.vllm.toys import direction

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(600),
]

DIRECTION = direction(3, HIDDEN)
ALARM = Alarm(
    layer=0,
    direction=DIRECTION,
    zero=0.0,
    gap=1.0,
    expected=(0.0, 0.4, 0.1),
    between=0.3,
    within=0.3,
    token=1.0,
    identity=ModelIdentity(model_id="tiny", layers=LAYERS, hidden_size=HIDDEN),
)
PROMPT = prompt("what is the sea like")
LOW = {"vllm_xargs": {"keel": "low"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("watched"))


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory):
    """A server that holds by `high` and watches."""
    path = tmp_path_factory.mktemp("floors")
    bands = [Floors(tuple(band(2.0)), "low"), Floors(tuple(band(4.0, seed=5)), "high")]
    save_floors(bands, path / "floors.safetensors", default="high")
    write_alarm(ALARM, path / "alarm.json")
    options = ("--model", str(folder), "--alarm", str(path / "alarm.json"))
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    with keel_served(path / "floors.safetensors", *options, arguments=tools) as url:
        yield url


@pytest.fixture(scope="module")
def engine(folder):
    return open_engine(str(folder), dtype="float32", device="cpu")


def heights(engine, floors):
    """Greedy tokens under the floors, and each one's projection at the alarm's layer."""
    recording = Recording(probes=(Probe(ALARM.layer, DIRECTION),))
    results = engine.generate([PROMPT], GREEDY, seed=0, interventions=floors, recording=recording)
    (answer,) = by_index(results).values()
    return list(answer.token_ids), answer.projections_TK[:, 0]


@pytest.mark.parametrize("name", ["low", "high", "none"])
def test_what_is_said_of_an_answer_equals_an_offline_reading_of_its_tokens(url, engine, name):
    """In float32 to 1e-3 gaps; of an answer that is cut vLLM never runs the last token."""
    floors = {"low": band(2.0), "high": band(4.0, seed=5), "none": []}[name]
    tokens, heights_T = heights(engine, floors)
    body = {
        "model": "tiny",
        "prompt": engine.template.prompt_ids(PROMPT.conversation),
        "max_tokens": len(tokens),
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        "vllm_xargs": {"keel": name},
    }
    for is_stream in (False, True):
        status, _, reply = post(url, "/v1/completions", {**body, "stream": is_stream})
        assert status == 200
        (said,) = verdicts(reply)
        assert said["setting"] == name
        assert said["gaps"] == pytest.approx(float(heights_T[: len(tokens) - 1].mean()), abs=1e-3)
        assert (said["firing"] > 0) == (name != "none")


def verdicts(reply):
    """What is said of each answer, of a reply whole or streamed."""
    if isinstance(reply, str):
        lines = [line[6:] for line in reply.splitlines() if line.startswith("data: {")]
        contents = [json.loads(line) for line in lines]
    else:
        contents = [reply]
    return [c["keel"] for each in contents for c in each.get("choices", ()) if "keel" in c]


def chat(url, messages, **more):
    body = {"model": "tiny", "messages": messages, "max_tokens": 6, "temperature": 0, **more}
    status, _, reply = post(url, "/v1/chat/completions", body)
    assert status == 200, reply
    return reply


def test_evidence_grows_along_a_conversation_as_offline(url):
    messages, monitor = [], Monitor(ALARM)
    for number in range(4):
        messages.append({"role": "user", "content": f"question {number}"})
        reply = chat(url, messages)
        (said,) = verdicts(reply)
        offline = monitor.turn("c", mean=said["gaps"], tokens=5)
        assert said["evidence"] == pytest.approx(offline.evidence, rel=0.01)
        messages.append({"role": "assistant", "content": reply["choices"][0]["message"]["content"]})


@pytest.mark.parametrize("written", ["", None, []], ids=["empty", "null", "no parts"])
def test_turns_after_an_empty_answer_count_on_the_server_as_offline(url, engine, written, tmp_path):
    """A file whose first answer is null was read without it, and every later turn as one earlier,
    held against another turn's level."""
    messages = [{"role": "user", "content": f"is it empty? {written}"}]
    (end,) = engine.template.tokenizer.encode(
        engine.template.tokenizer.eos_token, add_special_tokens=False
    )
    reply = chat(url, messages, logit_bias={str(end): 100})
    assert reply["choices"][0]["message"]["content"] in ("", None)
    assert verdicts(reply) == [{"setting": "high", "state": "unknown"}]
    messages.append({"role": "assistant", "content": written})
    monitor = Monitor(ALARM)
    monitor.turn("c", mean=0.0, tokens=0)
    for number in range(2):
        messages.append({"role": "user", "content": f"question {number}"})
        reply = chat(url, messages)
        (said,) = verdicts(reply)
        file = tmp_path / f"{number}.json"
        answer = {"role": "assistant", "content": reply["choices"][0]["message"]["content"]}
        messages.append(answer)
        file.write_text(json.dumps({"messages": messages}))
        (read,) = read_conversations(file)
        turns = sum(message.speaker == "assistant" for message in read.messages)
        offline = monitor.turn("c", mean=said["gaps"], tokens=5)
        assert turns == offline.turn + 1 == number + 2
        assert said["evidence"] == pytest.approx(offline.evidence, rel=0.01)


def test_an_answer_that_is_continued_is_the_turn_that_it_began(url):
    """A client has a cut answer gone on with, and sends both halves as one from then on."""
    names = ("keel_drift_state_misses_total", "keel_drift_conversations_total")
    misses, conversations = (float(metric(url, name)) for name in names)
    messages = [{"role": "user", "content": "tell me of the tide"}]
    begun = chat(url, messages)
    texts = [begun["choices"][0]["message"]["content"]]
    cut = {"role": "assistant", "content": texts[0]}
    going_on = {"add_generation_prompt": False, "continue_final_message": True}
    continued = chat(url, [*messages, cut], **going_on)
    texts.append(continued["choices"][0]["message"]["content"])
    messages += [{"role": "assistant", "content": "".join(texts)}]
    later = chat(url, [*messages, {"role": "user", "content": "more"}])
    state = State()
    for reply, turn in ((begun, 1), (continued, 1), (later, 2)):
        (said,) = verdicts(reply)
        state, offline = advance(ALARM, replace(state, turns=turn - 1), said["gaps"], 5)
        assert said["state"] == "alarm"  # of these toys', which the continuation keeps
        assert said["evidence"] == pytest.approx(offline.evidence, rel=0.01)
    assert [float(metric(url, name)) for name in names] == [misses, conversations + 1]


LOOK = {"type": "object", "properties": {"at": {"enum": ["sea"]}}, "required": ["at"]}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": LOOK}}]


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "streamed"])
def test_an_answer_that_calls_a_tool_is_no_turn_and_its_conversation_goes_on(url, is_stream):
    names = ("keel_drift_state_misses_total", "keel_drift_conversations_total")
    misses, conversations = (float(metric(url, name)) for name in names)
    messages = [{"role": "user", "content": f"look at it {is_stream}"}]
    forced = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 60, "stream": is_stream}
    reply = chat(url, messages, **forced)
    assert verdicts(reply) == [{"setting": "high", "state": "unknown"}]
    call = called(reply)
    messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    messages.append({"role": "tool", "tool_call_id": call["id"], "content": "grey"})
    monitor = Monitor(ALARM)
    for number in range(2):
        reply = chat(url, messages)
        (said,) = verdicts(reply)
        offline = monitor.turn("c", mean=said["gaps"], tokens=5)
        assert said["evidence"] == pytest.approx(offline.evidence, rel=0.01)
        messages.append({"role": "assistant", "content": reply["choices"][0]["message"]["content"]})
        messages.append({"role": "user", "content": f"and then {number}"})
    assert [float(metric(url, name)) for name in names] == [misses, conversations + 1]


def called(reply):
    """The call of a tool in a chat's reply, put together where it was streamed."""
    if not isinstance(reply, str):
        return reply["choices"][0]["message"]["tool_calls"][0]
    lines = [json.loads(line[6:]) for line in reply.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for each in lines for choice in each["choices"]]
    parts = [part for delta in deltas for part in delta.get("tool_calls") or ()]
    texts = [part["function"].get("arguments") or "" for part in parts]
    return {**parts[0], "function": {"name": "look", "arguments": "".join(texts)}}


def metric(url, name):
    """The value of a series that has no labels but the model's name."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as reply:
        lines = reply.read().decode().splitlines()
    return next(line.rpartition(" ")[2] for line in lines if line.startswith(f"{name}{{"))


def test_a_streamed_answer_is_judged_before_its_end_where_that_is_wanted(url):
    """At 16 and 64 of its 80 tokens; 79 are read by its end, as the last is never run."""
    body = {"model": "tiny", "prompt": "a b", "max_tokens": 80, "temperature": 0}
    body |= {"stream": True, "ignore_eos": True}
    asked = ({"vllm_xargs": {"keel_provisional": 1}}, {})
    early, plain = (verdicts(post(url, "/v1/completions", {**body, **more})[2]) for more in asked)
    assert [said.get("provisional", 0) // 16 for said in early] == [1, 4, 0]
    assert [said for said in early if "firing" in said] == plain == early[-1:]
    _, _, reply = post(url, "/v1/completions", body, **{"X-Keel-Provisional": "1"})
    assert len(verdicts(reply)) == 3


def test_every_answer_to_a_prompt_gets_its_own_verdict(url):
    reply = chat(url, [{"role": "user", "content": "a"}], n=3, temperature=1.0, seed=1)
    assert len({said["gaps"] for said in verdicts(reply)}) == 3
    body = {"model": "tiny", "prompt": ["a", "b c d"], "n": 2, "max_tokens": 4, "seed": 2}
    _, _, reply = post(url, "/v1/completions", {**body, "temperature": 1.0})
    assert len({said["gaps"] for said in verdicts(reply)}) == 4


def test_openais_own_client_reads_it_whole_and_streamed(url):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    asked = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "what is the sea like"}],
        "max_tokens": 6,
        "temperature": 0,
    }
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.model_extra["keel"]["state"] in ("ok", "watch", "foreign", "alarm")
    last = [
        chunk.choices[0].model_extra.get("keel")
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices
    ]
    assert last[-1]["gaps"] == pytest.approx(choice.model_extra["keel"]["gaps"], abs=1e-3)
    assert not any(last[:-1])
    response = client.responses.create(model="tiny", input="hello", max_output_tokens=6)
    assert response.model_extra["keel"]["state"] != "unknown"
    again = client.responses.create(
        model="tiny",
        input="more",
        max_output_tokens=6,
        extra_headers={"X-Keel-Conversation": "c7"},
    )
    assert again.model_extra["keel"]["setting"] == "high"
    client.close()


def test_anthropics_own_client_reads_it_whole_and_streamed(url):
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    asked = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "what is the sea like"}],
        "max_tokens": 6,
    }
    message = client.messages.create(**asked)
    assert message.model_extra["keel"]["state"] != "unknown"
    with client.messages.stream(**asked) as stream:
        events = [event for event in stream if event.type == "message_delta"]
    assert events[-1].model_extra["keel"]["state"] != "unknown"
    client.close()


def test_the_server_says_by_which_alarm_it_watches(url):
    facts = get(url, "/keel")["watching"]
    assert (facts["layer"], facts["statistic"]) == (0, "mixture")


def test_metrics_count_turns_and_stay_few(url):
    """After 15 conversations under three settings, in endpoints of three kinds: 84 were seen."""
    for number in range(13):
        named = {"vllm_xargs": {"keel": ("low", "high", "none")[number % 3]}}
        messages = [{"role": "user", "content": f"x {number}"}]
        sampled = {"n": 1 + number % 2, "temperature": 1.0, "seed": number}
        answer = chat(url, messages, max_tokens=2 + number, **sampled, **named)
        said = answer["choices"][0]["message"]
        chat(url, [*messages, {"role": "assistant", "content": said["content"]}, *messages])
    body = {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "y"}]}
    assert post(url, "/v1/messages", body)[0] == 200
    body = {"model": "tiny", "input": "z", "max_output_tokens": 5}
    assert post(url, "/v1/responses", body)[0] == 200
    time.sleep(1.1)  # the engine's numbers are kept for a second
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as reply:
        lines = [line for line in reply.read().decode().splitlines() if line.startswith("keel_")]
    own = {line.split('setting="')[1].split('"')[0] for line in lines if "requests_total" in line}
    assert own == {"low", "high", "none"}
    assert any(line.startswith("keel_drift_turns_total{") for line in lines)
    assert any(line.startswith("keel_drift_gaps_bucket{") for line in lines)
    unread = [line for line in lines if line.startswith("keel_drift_unread_turns_total{")]
    unread = [line for line in unread if 'reason="no content"' not in line]  # empty answers
    assert {line.rpartition(" ")[2] for line in unread} == {"0.0"}
    assert 'setting="high"' in "".join(line for line in lines if "tokens_moved" in line)
    assert len(lines) <= 60, lines
