"""Chat templates of every shape that is shipped with open models, each in its fewest words.

The shapes are those of the templates in trl, llama.cpp and vLLM and of their models; the words are
ours.
"""

from itertools import cycle

import pytest

from keel.engines import ChatTemplate
from keel.errors import ChatTemplateError
from keel.testing import tiny_tokenizer
from keel.types import Conversation, Message

MOVES_SYSTEM = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST]"
    "{% if loop.last and system is defined %}{{ system + '\n\n' }}{% endif %}{{ m.content }}[/INST]"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
"""Mistral 0.3 and Nemo: the system prompt goes before the last message, if a user's."""
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}: "
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)
"""Idefics 3, SmolVLM, LLaVA: a message is a list of parts."""
PARTS_OR_ERROR = PARTS.replace("part.type == 'text'", "part['text'] | length > 0")
"""The same, but failing on plain text instead of saying nothing."""
DROPS_EMPTY = (
    "{% for m in messages %}{% if m.content %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DROPS_BLANK = DROPS_EMPTY.replace("if m.content ", "if m.content | trim ")
TRIMS_NEWLINES = DROPS_EMPTY.replace("{{ m.content }}", "{{ m.content.lstrip('\n') }}")
TRIMS_THE_ASSISTANT_ONLY = DROPS_EMPTY.replace(
    "{{ m.content }}", "{{ m.content.strip('\n') if m.role == 'assistant' else m.content }}"
)
SHAPES = {
    "moves the system prompt": MOVES_SYSTEM,
    "parts": PARTS,
    "parts or error": PARTS_OR_ERROR,
    "drops empty": DROPS_EMPTY,
    "drops blank": DROPS_BLANK,
    "trims newlines": TRIMS_NEWLINES,
    "trims the assistant only": TRIMS_THE_ASSISTANT_ONLY,
}


def template(source: str) -> ChatTemplate:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = source
    return ChatTemplate(tokenizer)


def talk(*texts: str, system: str | None = None) -> Conversation:
    said = [Message(s, t) for s, t in zip(cycle(("user", "assistant")), texts, strict=False)]
    return Conversation((*([Message("system", system)] if system else []), *said))


def contents(made: ChatTemplate, conversation: Conversation) -> dict[int, str]:
    """Text of the content tokens of each assistant turn that has any, without a leading space."""
    read = made.transcript(conversation)
    return {
        turn.turn: made.tokenizer.decode(read.token_ids[turn.start : turn.stop]).removeprefix(" ")
        for turn in read.turns
    }


@pytest.mark.parametrize("source", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("system", [None, "be kind"])
def test_content_is_what_the_assistant_said(source, system):
    said = talk("hello there", "good day", "and you", "very well", system=system)
    assert contents(template(source), said) == {0: "good day", 1: "very well"}


@pytest.mark.parametrize("source", SHAPES.values(), ids=SHAPES)
def test_an_empty_turn_leaves_the_others_to_be_read(source):
    said = talk("hello", "", "and you", "very well", "", "good", "so", "")
    assert contents(template(source), said) == {1: "very well", 2: "good"}


def test_a_system_prompt_that_moves_stands_before_the_question_that_is_answered():
    made = template(MOVES_SYSTEM)
    said = talk("hello", "good day", "and you", "very well", system="be kind")
    assert made.tokenizer.decode(made.transcript(said).token_ids) == (
        "[INST]hello[/INST] good day<|im_end|>[INST]be kind\n\nand you[/INST] very well<|im_end|>"
    )
    assert made.facts()["system prompts"] == "moved to the last user's text by the template"


def test_what_is_sampled_after_a_system_prompt_that_moves_follows_the_same_tokens():
    made = template(MOVES_SYSTEM)
    asked = talk("hello", "good day", "and you", system="be kind")
    head, read = made.prompt_ids(asked), made.transcript(asked.with_reply("very well"))
    assert read.token_ids[: len(head)] == tuple(head)


def test_a_begun_answer_follows_a_system_prompt_that_moves():
    made = template(MOVES_SYSTEM)
    begun = talk("hello", "I am", system="be kind")
    assert made.tokenizer.decode(made.prompt_ids(begun)) == "[INST]be kind\n\nhello[/INST] I am"


def test_an_answer_begun_with_nothing_is_not_begun():
    made = template(DROPS_EMPTY)
    assert made.prompt_ids(talk("hello", "")) == made.prompt_ids(talk("hello"))


def test_brackets_around_a_turn_are_no_words_put_first():
    assert "always put first" not in template(MOVES_SYSTEM).facts()


HEARING = DROPS_EMPTY.replace("if m.content", "if m.content != 'hush'")
TITLING = DROPS_EMPTY.replace("{{ m.content }}", "{{ m.content | capitalize }}")
DOUBLING = DROPS_EMPTY.replace("{{ m.content }}", "{{ m.content * 2 }}")
CUTTING = DROPS_EMPTY.replace(
    "{{ m.content }}", "{{ m.content if 'KEEL' in m.content else m.content[:4] }}"
)
UNSAYING = DROPS_EMPTY.replace("if m.content", "if m.role == 'assistant'")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (HEARING, r"text of message 2 \(assistant\) or what follows it: .*'good day<\|im_end\|>"),
        (TITLING, r"text of message 1 \(user\) or what follows it: it writes 'Hello<"),
        (DOUBLING, r"shows 2 times message 1 \(user\): 'hello'"),
        (UNSAYING, r"leaves out message 1 \(user\): 'hello'"),
        (CUTTING, r"text of message 1 \(user\) .*'hell<.*'hello' was to stand"),
        ("{{ messages[2].content[:2] }}" + DROPS_EMPTY, "own words depend .* 'hu.* for 'KE"),
        (DROPS_EMPTY + "{{ messages[2].content | length }}", "message 4.* or what follows it"),
        (DROPS_EMPTY.replace("{{ m.content", "{{ m.contents + 1"), "refuses .* 'contents'"),
    ],
)
def test_a_template_that_cannot_be_followed_is_refused_for_what_it_does(source, reason):
    """Once, every one was said to change the messages' text."""
    with pytest.raises(ChatTemplateError, match=reason):
        template(source).transcript(talk("hello", "good day", "hush", "yes"))
