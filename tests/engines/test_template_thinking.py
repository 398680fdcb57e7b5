"""Thinking is read as such, or left out, under templates of every shape that has it."""

from itertools import cycle

import pytest

from keel.engines import ChatTemplate
from keel.testing import tiny_tokenizer
from keel.types import Conversation, Message

HEAD = (
    "{% for m in messages %}{% if m.role != 'assistant' %}<|im_start|>{{ m.role }}\n{{ m.content }}"
)
SAID = "<|im_end|>\n{% else %}<|im_start|>assistant\n"
TAIL = (
    "<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\nPROMPT{% endif %}"
)
CHATML = HEAD + SAID + "{{ m.content }}" + TAIL.replace("PROMPT", "")
FIELD = (
    "{% set r = m.reasoning_content or '' %}{% set c = m.content %}{% if '</think>' in c %}"
    "{% set r = c.split('</think>')[0].split('<think>')[-1] %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.last or r %}<think>\n{{ r.strip('\n') }}\n</think>\n\n{% endif %}{{ c }}"
)
SWITCH = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
QWEN_3 = HEAD + SAID + FIELD + TAIL.replace("PROMPT", SWITCH + "{% endif %}")
QWEN_35 = HEAD + SAID + FIELD + TAIL.replace("PROMPT", SWITCH + "{% else %}<think>\n{% endif %}")
NEMOTRON = QWEN_3.replace(SWITCH + "{% endif %}", "<think>\n")
R1 = HEAD + SAID + "{{ m.content.split('</think>')[-1] }}" + TAIL.replace("PROMPT", "<think>\n")
LFM = R1.replace("<think>\n", "")
GLM = (
    HEAD + SAID + "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>\n"
    "{% else %}<think></think>\n{% endif %}{{ m.content.split('</think>')[-1].strip() }}"
    + TAIL.replace("PROMPT", "")
)
SEED = GLM.replace("think>", "seed:think>")
COMMAND = GLM.replace("</think>\n", "<|END_THINKING|>").replace("<think>", "<|START_THINKING|>")
HARMONY = (
    HEAD + SAID.removesuffix("\n") + "{% if m.thinking %}<|channel|>analysis<|message|>"
    "{{ m.thinking }}<|end|><|start|>assistant{% endif %}<|channel|>final<|message|>{{ m.content }}"
    + TAIL.replace("\nPROMPT", "")
)
PARTS = (
    HEAD + SAID + "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'thinking' %}[THINK]{{ p.thinking }}[/THINK]{% else %}{{ p.text }}{% endif %}"
    "{% endfor %}{% endif %}" + TAIL.replace("PROMPT", "")
)
GEMMA = CHATML + "{# <|channel>thought <channel|> #}"
OWN_TAG = R1.replace("think>", "ponder>")
OPENED_BY_A_TAG = HEAD + SAID + "{{ m.content }}" + TAIL.replace("PROMPT", "<muse>")
SHAPES = {
    "ChatML": CHATML,
    "Qwen 3": QWEN_3,
    "Qwen 3.5": QWEN_35,
    "Nemotron": NEMOTRON,
    "R1": R1,
    "LFM": LFM,
    "GLM": GLM,
    "Seed": SEED,
    "Command": COMMAND,
    "gpt-oss": HARMONY,
    "Mistral": PARTS,
    "Gemma 4": GEMMA,
    "a tag of its own": OWN_TAG,
}
WRITTEN = {
    "a pair": Message("assistant", "<think>\nwell, well\n</think>\n\ngood day"),
    "no opening": Message("assistant", "well, well\n</think>\n\ngood day"),
    "a field": Message("assistant", "good day", thinking="well, well"),
    "Mistral": Message("assistant", "[THINK]well, well[/THINK]good day"),
    "gpt-oss": Message(
        "assistant",
        "<|channel|>analysis<|message|>well, well<|end|><|start|>assistant<|channel|>final"
        "<|message|>good day",
    ),
}


def template(source: str) -> ChatTemplate:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = source
    return ChatTemplate(tokenizer)


def talk(*said: str | Message) -> Conversation:
    speakers = cycle(("user", "assistant"))
    return Conversation(
        tuple(m if isinstance(m, Message) else Message(next(speakers), m) for m in said)
    )


def read(made: ChatTemplate, conversation: Conversation, spans="answer") -> list[str]:
    found = made.transcript(conversation, spans)
    return [made.tokenizer.decode(found.token_ids[t.start : t.stop]) for t in found.turns]


@pytest.mark.parametrize("source", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("message", WRITTEN.values(), ids=WRITTEN)
def test_an_answer_is_read_as_if_it_had_been_given_without_thinking(source, message):
    """Once, whatever was not a whole pair counted as the answer, or the talk was refused."""
    made = template(source)
    plain = made.transcript(
        Conversation((Message("user", "hello"), Message("assistant", "good day")))
    )
    assert made.transcript(Conversation((Message("user", "hello"), message))) == plain


@pytest.mark.parametrize("source", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("message", WRITTEN.values(), ids=WRITTEN)
def test_thinking_is_a_span_of_its_own(source, message):
    made = template(source)
    said = Conversation((Message("user", "hello"), message))
    assert read(made, said, "thinking") == ["well, well"]
    (both,) = read(made, said, "both")
    assert both.startswith("well, well")
    assert both.endswith("good day")


@pytest.mark.parametrize("source", SHAPES.values(), ids=SHAPES)
def test_earlier_turns_are_read_without_their_thinking(source):
    said = Conversation(
        (
            Message("user", "hello"),
            WRITTEN["no opening"],
            Message("user", "and you"),
            Message("assistant", "very well", thinking="so so"),
        )
    )
    assert read(template(source), said) == ["good day", "very well"]
    assert read(template(source), said, "thinking") == ["so so"]


def test_thinking_stands_where_the_model_puts_it():
    spelled = {
        name: template(source).tokenizer.decode(
            template(source)
            .transcript(Conversation((Message("user", "hello"), WRITTEN["a field"])), "thinking")
            .token_ids
        )
        for name, source in SHAPES.items()
    }
    asked = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant"
    block = f"{asked}\n<think>\nwell, well\n</think>\n\ngood day"
    assert spelled["Qwen 3"] == spelled["Qwen 3.5"] == spelled["Nemotron"] == block
    assert spelled["R1"] == spelled["LFM"] == block
    assert spelled["GLM"] == f"{asked}\n<think>well, well</think>\ngood day"
    assert spelled["Seed"] == f"{asked}\n<seed:think>well, well</seed:think>\ngood day"
    assert spelled["Mistral"] == f"{asked}\n[THINK]well, well[/THINK]good day"
    assert spelled["gpt-oss"] == (
        f"{asked}<|channel|>analysis<|message|>well, well<|end|><|start|>assistant"
        "<|channel|>final<|message|>good day"
    )
    assert spelled["Gemma 4"] == f"{asked}\n<|channel>thought\nwell, well\n<channel|>good day"


@pytest.mark.parametrize(
    ("source", "fact"),
    [
        (R1, "on: the generation prompt opens it"),
        (NEMOTRON, "on: the generation prompt opens it"),
        (OWN_TAG, "on: the generation prompt opens it"),
        (OPENED_BY_A_TAG, "on: the generation prompt opens it"),
        (QWEN_3, "off"),
        (QWEN_35, "off"),
        (HARMONY, "left to the model"),
        (SEED, "left to the model"),
        (CHATML, None),
        (LFM, None),
    ],
)
def test_what_becomes_of_thinking_is_among_the_facts(source, fact):
    assert template(source).facts().get("thinking") == fact


def sampled(made: ChatTemplate, text: str) -> Conversation:
    ids = tuple(made.tokenizer(text, add_special_tokens=False).input_ids)
    shown = made.tokenizer.decode(ids, skip_special_tokens=True)
    return Conversation((Message("user", "hello"),)).with_reply(shown, ids)


@pytest.mark.parametrize(
    ("source", "text", "thinking", "answer"),
    [
        (R1, "well, well\n</think>\n\ngood day", "well, well\n</think>\n\n", "good day"),
        (R1, "well, well", "well, well", None),
        (OPENED_BY_A_TAG, "well</muse>good day", "well</muse>", "good day"),
        (QWEN_3, "<think>\nwell\n</think>\n\ngood day", "<think>\nwell\n</think>\n\n", "good day"),
        (QWEN_3, "good day", None, "good day"),
        (CHATML, "<think>well", "<think>well", None),
    ],
)
def test_what_was_sampled_is_parted_by_its_tokens(source, text, thinking, answer):
    made = template(source)
    said = sampled(made, text)
    assert read(made, said) == ([] if answer is None else [answer])
    assert read(made, said, "thinking") == ([] if thinking is None else [thinking])
    assert read(made, said, "both") == [text]


def test_delimiters_that_decoding_leaves_out_are_known_by_their_tokens():
    """Mistral's and gpt-oss's are control tokens: the decoded answer begins with the thinking."""
    made = template(PARTS)
    made.tokenizer.add_special_tokens({"extra_special_tokens": ["[THINK]", "[/THINK]"]})
    said = sampled(made, "[THINK]well, well[/THINK]good day")
    assert said.messages[-1].content == "well, wellgood day"
    assert made.said(said.messages[-1]).thinking == "well, well"
    assert read(made, said.with_user("and you").with_reply("fine")) == ["good day", "fine"]


def test_the_closing_token_in_between_stays_what_it_is():
    made = template(QWEN_3)
    made.tokenizer.add_special_tokens({"extra_special_tokens": ["<think>", "</think>"]})
    found = made.transcript(Conversation((Message("user", "hi"), WRITTEN["a field"])), "both")
    closing = made.tokenizer.convert_tokens_to_ids("</think>")
    assert found.token_ids.count(closing) == 1


def test_the_first_word_of_an_answer_is_kept_where_its_token_holds_the_space_before_it():
    """It was taken for thinking, and one-word answers vanished. White space alone is no answer."""
    made = ChatTemplate(tiny_tokenizer())
    ids = made.tokenizer("<think>a ghost</think>\n the end", add_special_tokens=False)["input_ids"]
    assert made.tokenizer.decode(ids[made.answer_start(ids) :]) == " the end"
    ids = made.tokenizer("<think>a ghost</think> you", add_special_tokens=False)["input_ids"]
    assert made.tokenizer.decode(ids[made.answer_start(ids) :]) == " you"
