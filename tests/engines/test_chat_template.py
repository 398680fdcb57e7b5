"""Which tokens are content, under templates that behave in every way known."""

import pytest

from keel.engines import ChatTemplate
from keel.errors import ChatTemplateError
from keel.testing import tiny_tokenizer
from keel.types import Conversation, Message

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INJECTING = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are Tiny.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DROPS_SYSTEM = CHATML.replace(
    "{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}"
)
DATED = (
    "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}"
    "<|im_start|>system\nToday Date: {{ date_string }}\n\n{{ s }}<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHOUTING = CHATML.replace("{{ m['content'] }}", "{{ m['content'] | upper }}")


def template(source: str) -> ChatTemplate:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = source
    return ChatTemplate(tokenizer)


def talk(*texts: str, system: str | None = None) -> Conversation:
    speakers = ["user", "assistant"] * len(texts)
    messages = [Message(s, t) for s, t in zip(speakers, texts, strict=False)]
    return Conversation((*([Message("system", system)] if system else []), *messages))


def contents(source: str, conversation: Conversation) -> list[str]:
    made = template(source)
    transcript = made.transcript(conversation)
    return [
        made.tokenizer.decode(transcript.token_ids[turn.start : turn.stop])
        for turn in transcript.turns
    ]


@pytest.mark.parametrize("source", [CHATML, INJECTING, NO_SYSTEM, DROPS_SYSTEM, DATED])
def test_content_tokens_spell_the_message_and_nothing_else(source):
    conversation = talk("hello there", "good day", "yes", "yes", system="be kind")
    assert contents(source, conversation) == ["good day", "yes"]


@pytest.mark.parametrize("source", [NO_SYSTEM, DATED])
def test_whitespace_that_a_template_trims_is_no_content(source):
    assert contents(source, talk("hi", "  good day \n")) == ["good day"]


def test_whitespace_that_a_template_keeps_is_content():
    assert contents(CHATML, talk("hi", " good day")) == [" good day"]


def test_a_repeated_answer_is_found_at_its_own_place():
    """The reference searches text from the start, and finds "yes" inside the user's turn."""
    made = template(CHATML)
    turn = made.transcript(talk("yes yes yes", "yes")).turns[0]
    assert turn.stop == len(made.transcript(talk("yes yes yes", "yes")).token_ids) - len(
        made.tokenizer("<|im_end|>\n", add_special_tokens=False).input_ids
    )


def test_an_empty_answer_gives_no_turn_but_keeps_the_count():
    transcript = template(CHATML).transcript(talk("a", "", "b", "good"))
    assert [t.turn for t in transcript.turns] == [1]


def test_an_answer_with_known_tokens_keeps_those_tokens():
    made = template(CHATML)
    prompt = talk("hello")
    odd = (41, 41, 42)
    transcript = made.transcript(prompt.with_reply("whatever", odd))
    head = made.prompt_ids(prompt)
    assert transcript.token_ids == (*head, *odd)
    assert (transcript.turns[0].start, transcript.turns[0].stop) == (len(head), len(head) + 3)


def test_a_system_prompt_without_a_system_role_goes_before_the_users_text():
    for source in (NO_SYSTEM, DROPS_SYSTEM):
        made = template(source)
        assert not made.supports_system
        assert "be kind\n\nhello" in made.tokenizer.decode(
            made.prompt_ids(talk("hello", system="be kind"))
        )


def test_an_injected_system_prompt_is_seen():
    assert template(INJECTING).injected_system == "You are Tiny."
    assert template(INJECTING).facts()["system prompt put in when none is given"] == "You are Tiny."


@pytest.mark.parametrize("source", [CHATML, NO_SYSTEM, DATED])
def test_no_injection_is_seen_where_there_is_none(source):
    assert template(source).injected_system == ""


def test_a_date_put_first_is_seen_and_fixed():
    assert template(DATED).preamble == "Today Date: 26 Jul 2024"
    assert template(CHATML).preamble == ""


def test_a_template_that_changes_the_text_is_refused():
    with pytest.raises(ChatTemplateError, match="changes the messages' text"):
        template(SHOUTING).transcript(talk("hello", "good"))


def test_a_thinking_block_is_no_content():
    thought = "<think>well, well</think>\n\ngood day"
    assert contents(CHATML, talk("hello", thought)) == ["good day"]


def test_a_model_without_a_template_gets_plain_text():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    made = ChatTemplate(tokenizer)
    assert made.is_plain
    assert contents_of(made, talk("hello", "good day")) == ["good day"]


def contents_of(made: ChatTemplate, conversation: Conversation) -> list[str]:
    transcript = made.transcript(conversation)
    return [made.tokenizer.decode(transcript.token_ids[t.start : t.stop]) for t in transcript.turns]


def test_the_beginning_of_text_token_comes_once():
    source = "{{ bos_token }}" + CHATML
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.chat_template = source
    ids = ChatTemplate(tokenizer).prompt_ids(talk("hello"))
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    # One from bos, one from the user's header, one from the assistant's.
    assert ids.count(start) == 3


def test_the_end_of_turn_token_ends_an_answer():
    made = template(CHATML)
    assert made.tokenizer.convert_tokens_to_ids("<|im_end|>") in made.end_tokens()


def test_a_conversation_of_a_system_prompt_alone_is_refused_where_there_is_no_system_role():
    with pytest.raises(ChatTemplateError, match="no user message"):
        template(NO_SYSTEM).prompt_ids(Conversation((Message("system", "be kind"),)))
