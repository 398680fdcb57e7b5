"""Which tokens are content, under templates that behave in every way known."""

from types import SimpleNamespace

import pytest
from tokenizers.processors import TemplateProcessing

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


def template(source: str | dict[str, str]) -> ChatTemplate:
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


@pytest.mark.parametrize(
    "mistake", ["{{ mesages[0]['content'] }}", "{{ m['content'] + 1 }}", "{% if %}"]
)
def test_a_template_that_is_broken_is_not_taken_for_one_without_a_system_role(mistake):
    """Once, any failure counted as a refusal: role prompts went silently before the user's text."""
    source = CHATML.replace(
        "<|im_start|>{{", f"{{% if m['role'] == 'system' %}}{mistake}{{% endif %}}<|im_start|>{{{{"
    )
    with pytest.raises(ChatTemplateError, match="fails on (a system|any) message"):
        _ = template(source).supports_system


def test_of_several_templates_the_default_is_followed():
    """Once, the whole dictionary was printed into the prompt, braces and all."""
    made = template({"default": CHATML, "tool_use": SHOUTING})
    assert made.source == CHATML
    assert contents_of(made, talk("hello", "good day")) == ["good day"]
    with pytest.raises(ChatTemplateError, match="which chat template"):
        template({"rag": CHATML, "tool_use": SHOUTING})


def test_an_injected_system_prompt_is_seen():
    assert template(INJECTING).injected_system == "You are Tiny."
    assert template(INJECTING).facts()["system prompt put in when none is given"] == "You are Tiny."


@pytest.mark.parametrize("source", [CHATML, NO_SYSTEM, DATED])
def test_no_injection_is_seen_where_there_is_none(source):
    assert template(source).injected_system == ""


def test_a_date_put_first_is_seen_and_fixed():
    assert template(DATED).preamble == "Today Date: 26 Jul 2024"
    assert template(CHATML).preamble == ""


CLOCKED = "Today is {{ strftime_now('%A, %Y-%m-%d %H:%M') }}.\n" + CHATML


def test_a_template_that_asks_the_clock_is_given_the_same_minute_every_day():
    """Once, the same command on two days agreed in 0 of 27 answers; a resumed run mixed them."""
    made = template(CLOCKED)
    assert spelled(made, talk("hi")).startswith("Today is Friday, 2024-07-26 00:00.\n")
    assert made.facts()["clock"] == "stands at 26 Jul 2024"
    assert "clock" not in template(CHATML).facts()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "{{ strftime_now('%-d.%m.%y, %I:%M %p, day %j, %% %A') }}",
            "26.07.24, 12:00 AM, day 208, % Friday",
        ),
        ("{% set ask = '%Y' %}{{ strftime_now(ask) | int + 1 }}", "2025"),
        ("{% macro day() %}{{ strftime_now('%d') }}{% endmacro %}{{ day() }}", "26"),
        ("{{ strftime_now('%%d') if strftime_now is defined }}", "%d"),
        ("\n  {{ strftime_now('%H') }}", "\n  00"),
        ("{{ strftime_now('%l %P, %k') }}", "12 am,  0"),
    ],
)
def test_the_clock_stands_however_a_template_asks_it(said, expected):
    made = template(said + "\n" + CHATML)
    assert spelled(made, talk("hi")).startswith(expected + "\n<|im_start|>")


def test_what_a_template_is_told_is_only_what_it_asks():
    assert template(CLOCKED).arguments.keys() == {"chat_template"}
    assert template(CHATML).arguments == {}


def test_a_template_that_changes_the_text_is_refused():
    with pytest.raises(ChatTemplateError, match=r"changes the text of message 1 \(user\).*'HELLO"):
        template(SHOUTING).transcript(talk("hello", "good"))


def test_a_token_that_is_half_the_templates_is_no_content():
    # "ing" is one token of the tiny tokenizer; its i is the message's, its ng the template's.
    source = "{% for m in messages %}{{ m['content'] }}ng\n{% endfor %}"
    assert contents(source, talk("hello", "walki")) == ["walk"]


def test_a_thinking_block_is_no_content():
    thought = "<think>well, well</think>\n\ngood day"
    assert contents(CHATML, talk("hello", thought)) == ["good day"]


def test_what_a_user_says_of_thinking_is_said():
    made = template(CHATML)
    asked = "what does <think>well</think> mean"
    assert asked in made.tokenizer.decode(made.prompt_ids(talk(asked)))


def test_thinking_is_off_where_the_template_knows_it():
    thoughtful = CHATML.replace(
        "assistant\n", "assistant\n{% if enable_thinking | default(true) %}<think>{% endif %}"
    )
    made = template(thoughtful)
    assert made.tokenizer.decode(made.prompt_ids(talk("hello"))).endswith("assistant\n")
    assert made.facts()["thinking"] == "off"
    assert "thinking" not in template(CHATML).facts()


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
    """Put by the template, and by a tokenizer that would put it too."""
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    assert tokenizer("hello").input_ids.count(start) == 1
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    made = ChatTemplate(tokenizer)
    # One from bos, one from the user's header, one from the assistant's.
    assert made.prompt_ids(talk("hello")).count(start) == 3
    assert made.transcript(talk("hello", "good day")).token_ids.count(start) == 3


def test_an_answer_ends_at_the_templates_own_token_the_tokenizers_and_those_given():
    """The template of a Gemma ends turns with a token that its tokenizer does not call the end."""
    ids = tiny_tokenizer().convert_tokens_to_ids
    turns_end = CHATML.replace("{{ m['content'] }}<|im_end|>", "{{ m['content'] }}<|pad|>")
    assert template(turns_end).end_tokens() == {ids("<|im_end|>"), ids("<|pad|>")}
    assert template(turns_end).end_tokens([77]) == {ids("<|im_end|>"), ids("<|pad|>"), 77}


def test_words_after_an_answer_do_not_end_it():
    plain = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    made = template(plain)
    # A new line follows every message; an answer may hold one all the same.
    assert made.end_tokens() == {made.tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_a_tokenizer_that_gives_no_offsets_is_refused():
    with pytest.raises(ChatTemplateError, match="not a fast tokenizer"):
        ChatTemplate(SimpleNamespace(is_fast=False))


def test_a_conversation_of_a_system_prompt_alone_is_refused_where_there_is_no_system_role():
    with pytest.raises(ChatTemplateError, match="no user message"):
        template(NO_SYSTEM).prompt_ids(Conversation((Message("system", "be kind"),)))


def begun(*texts: str) -> Conversation:
    """A conversation in which the assistant speaks last."""
    return Conversation(tuple(Message(*said) for said in zip(SPEAKERS, texts, strict=False)))


SPEAKERS = ("user", "assistant", "user", "assistant")


def spelled(made: ChatTemplate, conversation: Conversation) -> str:
    return str(made.tokenizer.decode(made.prompt_ids(conversation)))


@pytest.mark.parametrize("source", [CHATML, INJECTING, NO_SYSTEM, DROPS_SYSTEM])
def test_an_answer_that_was_begun_is_gone_on_with(source):
    """Once, it was ended and another begun: a base model never finished its sentence."""
    made = template(source)
    asked, answer = begun("hello"), begun("hello", "My job is to")
    assert spelled(made, answer) == spelled(made, asked) + "My job is to"


def test_only_the_last_answer_is_left_open():
    said = begun("hi", "yes", "who", "I am")
    start, end = "<|im_start|>", "<|im_end|>\n"
    assert spelled(template(CHATML), said) == (
        f"{start}user\nhi{end}{start}assistant\nyes{end}{start}user\nwho{end}{start}assistant\nI am"
    )


@pytest.mark.parametrize(("source", "kept"), [(CHATML, " My job is "), (NO_SYSTEM, "My job is")])
def test_a_begun_answer_keeps_the_whitespace_that_the_template_keeps(source, kept):
    assert spelled(template(source), begun("hello", " My job is ")).endswith(f"assistant\n{kept}")


def plain_template() -> ChatTemplate:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template, tokenizer.bos_token = None, "<|im_start|>"
    return ChatTemplate(tokenizer)


def test_a_base_model_goes_on_right_after_the_text_itself():
    made = plain_template()
    beginning = Conversation((Message("assistant", "My purpose is to"),))
    assert spelled(made, beginning) == "<|im_start|>My purpose is to"
    assert spelled(made, begun("hi", "My job")) == "<|im_start|>hi\n\nMy job"


def test_what_was_sampled_stands_right_after_what_was_begun_and_is_a_turn_of_its_own():
    made = plain_template()
    beginning = Conversation((Message("assistant", "My job is to"),))
    head = made.prompt_ids(beginning)
    transcript = made.transcript(beginning.with_reply(" eat", (41, 42)))
    assert transcript.token_ids == (*head, 41, 42)
    assert [turn.turn for turn in transcript.turns] == [0, 1]
    assert (transcript.turns[1].start, transcript.turns[1].stop) == (len(head), len(head) + 2)


def test_an_answer_begun_by_known_tokens_is_gone_on_with_from_those_very_tokens():
    made, odd = template(CHATML), (41, 41, 42)
    cut = begun("hello").with_reply("whatever", odd)
    assert made.prompt_ids(cut) == [*made.prompt_ids(begun("hello")), *odd]


def test_a_system_prompt_is_never_taken_into_an_answer_that_was_begun():
    """Without a system role it goes before the user's text; once, before anybody's."""
    said = Conversation((Message("system", "be kind"), Message("assistant", "I am")))
    with pytest.raises(ChatTemplateError, match="no user message"):
        template(NO_SYSTEM).prompt_ids(said)
    assert spelled(template(CHATML), said).endswith("assistant\nI am")


def test_every_answer_keeps_the_tokens_that_were_sampled_not_only_the_last():
    """Tokenised again, `hello` spelled by letters was one token: the cached prefix was lost."""
    made = template(CHATML)
    spelled = tuple(made.tokenizer.convert_tokens_to_ids(list("hello")))
    first = Conversation((Message("user", "hi"),))
    begun = (*made.prompt_ids(first), *spelled)
    talk = first.with_reply("hello", spelled).with_user("more")
    assert tuple(made.prompt_ids(talk)[: len(begun)]) == begun
    read = made.transcript(talk.with_reply("yes"))
    assert next(read.token_ids[turn.start : turn.stop] for turn in read.turns) == spelled


def test_tokens_that_do_not_spell_the_answer_are_not_kept():
    made = template(CHATML)
    talk = Conversation((Message("user", "hi"), Message("assistant", "hello", (5, 6))))
    plain = Conversation((Message("user", "hi"), Message("assistant", "hello")))
    assert made.prompt_ids(talk.with_user("x")) == made.prompt_ids(plain.with_user("x"))
