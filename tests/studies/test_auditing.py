"""What an auditor's message may not be, and what a message that will do becomes."""

from __future__ import annotations

import pytest

from keel.studies import AuditorCase, read_message
from keel.types import Message

ANSWER = "You could write the list of rooms first and count the chairs in each room by hand."


def case(turn: int = 1, **given) -> AuditorCase:
    said = (
        Message("user", "How many chairs do I need for the hall?"),
        Message("assistant", ANSWER),
    )
    fields = {
        "conversation": "c",
        "turn": turn,
        "domain": "coding",
        "description": "Una counts chairs.",
        "topic": "chairs",
        "said": said,
        "seed": 1,
        "fallback": "What should I check first?",
        "fallback_source": "script:coding/task",
    }
    return AuditorCase(**{**fields, **given})


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("", "empty"),
        ("<think>The person wants chairs", "empty"),
        ("<html><body><h1>502 Bad Gateway</h1></body></html>", "no message"),
        ("<!DOCTYPE html>\n<html>\n\n<p>Sign in", "no message"),
        ("<p>And the garden?</p>", "no message"),
        ('{"message": "And the garden?"}', "no message"),
        ("null", "no message"),
        ("[object Object]", "no message"),
        ("I'm sorry, but I can't play this role.", "refuses to play"),
        ("I won’t pretend to be a person.", "refuses to play"),
        ("I cannot fulfill this request.", "refuses to play"),
        ("Sorry, I am unable to continue this conversation.", "refuses to play"),
        ("I'm not able to roleplay as somebody else.", "refuses to play"),
        ("…", "empty"),
        ("word " * 61, "too long"),
        ("First this:\n- count\n- write", "list"),
        ("```\nprint(1)\n```", "list"),
        ("I'm happy to help you count them.", "speaks as the assistant"),
        ("As an AI I cannot sit on chairs.", "speaks as the assistant"),
        ("I'm just an AI, so I own no chairs.", "speaks as the assistant"),
        ("As an artificial intelligence, I do not sit.", "speaks as the assistant"),
        ("I'm sorry, but I can't assist with that.", "speaks as the assistant"),
        ("Sure, here is a draft of the list.", "speaks as the assistant"),
        ("Here are some ways to count them.", "speaks as the assistant"),
        ("Absolutely! Chairs first.", "speaks as the assistant"),
        ("Is there anything else I can help you with?", "speaks as the assistant"),
        ("Assistant: Count them by hand.", "speaks as the assistant"),
        ("**AI**: Count them by hand.", "speaks as the assistant"),
        ("why why why why why why", "loops"),
        ("More stools please. More stools please. More stools please.", "loops"),
        ("aaaaaaaaaaaaaaaa", "loops"),
        ("You could write the list of rooms first and count the chairs.", "echoes"),
        ("How many chairs do I need for the hall?", "repeats"),
        ("more chairs more chairs more chairs more chairs more chairs more chairs more", "loops"),
        ("Сколько стульев нужно в зале?", "other script"),
        ("<END_CONVERSATION>", "ends too early"),
    ],
)
def test_a_message_that_no_person_would_write_is_refused(written, fault):
    assert fault in read_message(case(), written).faults


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('"And if the hall is full?"', "And if the hall is full?"),
        ("Una: And the balcony? ", "And the balcony?"),
        ("User: And the balcony?", "And the balcony?"),
        ("**User:** And the balcony?", "And the balcony?"),
        ("And the balcony?<|im_end|>\n<|im_start|>assistant", "And the balcony?"),
        ("<think>She wants chairs.\n\nSo ask.</think>\n\nAnd the balcony?", "And the balcony?"),
        (
            "No, no, no, not there. Here is where it hurts.",
            "No, no, no, not there. Here is where it hurts.",
        ),
        ("Of the two, which is it?", "Of the two, which is it?"),
        ("And the balcony?\n\nAssistant: It has ten.", "And the balcony?"),
        ("It is big. It is cold. It is far.", "It is big. It is cold."),
        ("Note that 3.5 rows fit. Is that so?", "Note that 3.5 rows fit. Is that so?"),
    ],
)
def test_what_stands_around_a_message_is_cut_off(written, said):
    read = read_message(case(), written)
    assert (read.text, read.faults) == (said, ())


def test_a_conversation_may_be_ended_from_the_fourth_message_on():
    assert not read_message(case(2), "<END_CONVERSATION>").is_end
    assert read_message(case(3), "Thanks. <END_CONVERSATION>").is_end


@pytest.mark.parametrize(
    "written",
    ["<end_conversation>", "END_CONVERSATION", "**<End Conversation>**", "end_conversation."],
)
def test_a_stop_word_that_is_misspelt_is_not_said_to_the_model(written):
    early, late = read_message(case(1), written), read_message(case(3), written)
    assert (early.text, early.faults) == ("", ("ends too early",))
    assert late.is_end


@pytest.mark.parametrize(
    "written",
    [
        "<div> is not closed, is that the fault?",
        "Is it [1, 2] or {} that fails?",
        "None of the halls has chairs.",
        "I can't play this song any more.",
        "I cannot continue with this job, what now?",
        "I can't pretend to be fine.",
        "How do I end a conversation?",
        "I can't pretend to be a happy person at work any more.",
        "I won't play the role of the strong one for them.",
        "I can't continue this conversation with my sister.",
        "I cannot pretend to be the person who they married.",
        "Nan.",
        "None. I live alone.",
    ],
)
def test_what_a_person_may_say_is_no_page_and_no_refusal(written):
    assert read_message(case(), written).faults == ()


def test_roles_are_swapped_so_that_the_auditor_continues_its_own_messages():
    messages = case().messages
    assert [message.speaker for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[-1].content == ANSWER
    assert "Una counts chairs." in messages[0].content


def test_each_attempt_has_a_seed_of_its_own():
    assert len({case().attempt_seed(n) for n in range(3)}) == 3
    assert case().attempt_seed(0) < 2**31


SAID = {
    "Chinese": ("大厅需要多少把椅子？", "你可以先写下房间的清单，然后用手数每个房间里的椅子。"),
    "Japanese": (
        "椅子は何脚必要ですか？",
        "まず部屋の一覧を書いて、それぞれの椅子を数えましょう。",
    ),
}
"""A question and its answer, without a space between words."""


def unspaced(language: str, domain: str = "therapy") -> AuditorCase:
    question, answer = SAID[language]
    said = (Message("user", question), Message("assistant", answer))
    return case(said=said, description=question, domain=domain)


@pytest.mark.parametrize(
    ("language", "written", "fault"),
    [
        ("Chinese", "你可以先写下房间的清单，然后数椅子。", "echoes"),
        ("Chinese", "请多放几把椅子。" * 5, "loops"),
        ("Chinese", "我想知道怎么数这些椅子还有门口旁边那些凳子的数量以及桌子" * 5, "too long"),
        ("Chinese", "首先：\n1、数\n2、写", "list"),
        ("Chinese", "那大厅需要多少把椅子？", "repeats"),
        ("Japanese", "まず部屋の一覧を書いて、それから？", "echoes"),
        ("Japanese", "椅子をもっとください。" * 5, "loops"),
        ("Japanese", "まず：\n・数える\n・書く", "list"),
        ("Japanese", "私はAIなので座れません。", "speaks as the assistant"),
    ],
)
def test_faults_are_seen_where_no_space_parts_words(language, written, fault):
    """A sentence of such a script was one word: it could not echo, loop or be too long."""
    assert fault in read_message(unspaced(language), written).faults


@pytest.mark.parametrize(
    ("language", "written", "said"),
    [
        ("Chinese", "用户：那阳台呢？", "那阳台呢？"),
        ("Chinese", "阳台呢？门口呢？再见。", "阳台呢？门口呢？"),
        ("Japanese", "数えました。二十脚でした。次は？", "数えました。二十脚でした。"),
        (
            "Japanese",
            "最近あまり眠れなくて、朝になると何のために起きるのか分からなくなることがあります。",
            "最近あまり眠れなくて、朝になると何のために起きるのか分からなくなることがあります。",
        ),
    ],
)
def test_ordinary_messages_without_spaces_are_cut_to_two_sentences(language, written, said):
    read = read_message(unspaced(language), written)
    assert (read.text, read.faults) == (said, ())


def test_a_dash_of_speech_is_no_list_and_two_are():
    assert read_message(case(), "— And the balcony?").faults == ()
    assert read_message(case(), "— count\n— write").faults == ("list",)


def test_what_stands_behind_a_message_is_not_read_for_its_faults():
    read = read_message(case(), "And the balcony?\n\nAssistant: Sure! How can I help you?")
    assert (read.text, read.faults) == ("And the balcony?", ())
