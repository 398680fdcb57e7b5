"""Every program's conversations are read with all that their model saw, or it is said what not."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from keel.drift import Outline, read_conversations, read_transcripts, transcript_form
from keel.drift.transcripts import FORMS
from keel.errors import UsageError
from keel.types import Conversation, Message

SYSTEM = "You are a lighthouse ghost."
SPOKEN = (Message("user", "Hi"), Message("assistant", "Hello"))
TALK = (Message("system", SYSTEM), *SPOKEN)
OPENAI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
BLOCKS = [
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
]
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


def written(folder: Path, value: Any, name: str = "talk.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def chatgpt(*messages: dict[str, Any]) -> dict[str, Any]:
    """An export's tree: a root without a message, the messages, and a branch that was left."""
    nodes: dict[str, Any] = {"root": {"message": None, "parent": None, "children": ["0"]}}
    for number, message in enumerate(messages):
        parent = str(number - 1) if number else "root"
        nodes[str(number)] = {"message": message, "parent": parent, "children": [str(number + 1)]}
    left = {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["No"]}}
    nodes["left"] = {"message": left, "parent": "root", "children": []}
    return {"conversation_id": "mine", "mapping": nodes, "current_node": str(len(messages) - 1)}


def said_in_chatgpt(role: str, *parts: Any, **more: Any) -> dict[str, Any]:
    content = {"content_type": "text", "parts": list(parts)}
    return {"author": {"role": role}, "content": content, **more}


REQUEST = {"model": "m", "messages": [{"role": "system", "content": SYSTEM}, OPENAI[0]]}
COMPLETION = {"id": "c", "choices": [{"index": 0, "message": OPENAI[1], "finish_reason": "stop"}]}
ANTHROPIC_REQUEST = {"model": "m", "system": SYSTEM, "messages": BLOCKS[:1], "max_tokens": 9}
ANTHROPIC_REPLY = {"type": "message", "role": "assistant", "content": BLOCKS[1]["content"]}
SAMPLE = {
    "id": "q1",
    "epoch": 1,
    "input": "Hi",
    "target": "x",
    "messages": [
        {"role": "system", "content": "attachment://7f"},
        {"role": "user", "content": "Hi", "source": "input"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello"}], "source": "generate"},
    ],
    "attachments": {"7f": SYSTEM},
    "output": {"model": "m", "choices": []},
}

CLAUDE = {
    "uuid": "u",
    "name": "a talk",
    "chat_messages": [
        {"sender": "human", "text": "Hi", "content": [{"type": "text", "text": "Hi"}]},
        {"sender": "assistant", "text": "Hello", "content": [], "attachments": [], "files": []},
    ],
}
CLAUDE_BRANCHED = {
    "uuid": "u",
    "chat_messages": [
        {"uuid": id, "parent_message_uuid": parent, "sender": sender, "text": text}
        for id, parent, sender, text in (
            ("a", "00000000-0000-4000-8000-000000000000", "human", "Hi"),
            ("b", "a", "assistant", "Goodbye"),
            ("c", "a", "assistant", "Hello"),
        )
    ],
}
OPEN_WEBUI = {
    "id": "w",
    "title": "a talk",
    "chat": {
        "models": ["m"],
        "params": {},
        "messages": OPENAI[:1],
        "history": {
            "currentId": "c",
            "messages": {
                "a": {"id": "a", "parentId": None, "childrenIds": ["b", "c"], **OPENAI[0]},
                "b": {"id": "b", "parentId": "a", "role": "assistant", "content": "No"},
                "c": {"id": "c", "parentId": "a", "model": "m", **OPENAI[1]},
            },
        },
    },
}
"""An answer made again: the first is not on the screen."""
OASST = {
    "message_tree_id": "t",
    "prompt": {
        "message_id": "t",
        "role": "prompter",
        "text": "Hi",
        "replies": [
            {"role": "assistant", "text": "No", "rank": None, "replies": []},
            {"role": "assistant", "text": "Never", "rank": 1, "replies": []},
            {"role": "assistant", "text": "Hello", "rank": 0, "replies": []},
        ],
    },
}
OASST_ROWS = [
    {"message_id": "t", "parent_id": None, "role": "prompter", "text": "Hi", "rank": None},
    {"message_id": "b", "parent_id": "t", "role": "assistant", "text": "No", "rank": 1.0},
    {"message_id": "a", "parent_id": "t", "role": "assistant", "text": "Hello", "rank": 0.0},
]
BEDROCK_ASKED = {
    "modelId": "m",
    "messages": [{"role": "user", "content": [{"text": "Hi"}]}],
    "inferenceConfig": {"maxTokens": 9},
}
BEDROCK_ANSWERED = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hello"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 1, "outputTokens": 1},
}


def bedrock_log(asked: dict[str, Any], answered: dict[str, Any]) -> dict[str, Any]:
    return {
        "schemaType": "ModelInvocationLog",
        "requestId": "r",
        "operation": "Converse",
        "input": {"inputContentType": "application/json", "inputBodyJson": asked},
        "output": {"outputContentType": "application/json", "outputBodyJson": answered},
    }


def constructed(kind: str, content: str) -> dict[str, Any]:
    """A message as LangChain's `dumpd` writes it."""
    names = ["langchain", "schema", "messages", kind]
    return {"lc": 1, "type": "constructor", "id": names, "kwargs": {"content": content}}


LANGCHAIN = [
    {"type": "human", "data": {"content": "Hi", "type": "human", "additional_kwargs": {}}},
    {"type": "ai", "data": {"content": "Hello", "type": "ai", "tool_calls": [], "id": "run-1"}},
]
CONSTRUCTED = [constructed("HumanMessage", "Hi"), constructed("AIMessageChunk", "Hello")]


def lm_studio(*shown: dict[str, Any], **more: Any) -> dict[str, Any]:
    turns = [{"versions": [version], "currentlySelected": 0} for version in shown]
    return {"name": "a talk", "createdAt": 1, "messages": turns, **more}


LM_USER = {"type": "singleStep", "role": "user", "content": [{"type": "text", "text": "Hi"}]}
LM_STEP = {"type": "contentBlock", "content": [{"type": "text", "text": "Hello"}]}
LM_ANSWER = {"type": "multiStep", "role": "assistant", "steps": [LM_STEP, {"type": "debugInfo"}]}
GLAIVE = "USER: Hi\n\n\nASSISTANT: Hello <|endoftext|>\n\n\n"
WITH_SYSTEM: dict[str, Any] = {
    "OpenAI": {"messages": [{"role": "system", "content": SYSTEM}, *OPENAI]},
    "OpenAI, with the completion beside": {**REQUEST, "choices": COMPLETION["choices"]},
    "OpenAI, a request and its response": {"request": REQUEST, "response": COMPLETION},
    "OpenAI's Responses": {
        "instructions": SYSTEM,
        "input": "Hi",
        "output": [
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Hello"}],
            }
        ],
    },
    "Anthropic": {"system": SYSTEM, "messages": BLOCKS},
    "Anthropic, the system prompt in blocks": {
        "system": [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}],
        "messages": BLOCKS,
    },
    "Anthropic, a request and its response": {
        "request": ANTHROPIC_REQUEST,
        "response": ANTHROPIC_REPLY,
    },
    "Gemini": {
        "systemInstruction": {"parts": [{"text": SYSTEM}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Hi"}]},
            {"role": "model", "parts": [{"text": "Hello"}]},
        ],
    },
    "ShareGPT": {"id": "s", "system": SYSTEM, "conversations": SHAREGPT},
    "ShareGPT, the system prompt among the turns": {
        "conversations": [{"from": "system", "value": SYSTEM}, *SHAREGPT]
    },
    "the reference's, with a system prompt beside": {
        "system_prompt": SYSTEM,
        "conversation": OPENAI,
    },
    "ChatGPT's export": [
        chatgpt(
            said_in_chatgpt("system", ""),
            {
                "author": {"role": "user"},
                "content": {"content_type": "user_editable_context", "user_profile": SYSTEM},
            },
            said_in_chatgpt("user", "Hi"),
            said_in_chatgpt("assistant", "Hello"),
        )
    ],
    "Inspect's log": {"version": 2, "eval": {"task": "t"}, "samples": [SAMPLE]},
    "Bedrock's Converse": {"request": {**BEDROCK_ASKED, "system": [{"text": SYSTEM}]}}
    | {"response": BEDROCK_ANSWERED},
    "LangChain's dumps": [constructed("SystemMessage", SYSTEM), *CONSTRUCTED],
    "LM Studio": lm_studio(LM_USER, LM_ANSWER, systemPrompt=SYSTEM),
    "LM Studio, where each chat has its settings": lm_studio(
        LM_USER,
        LM_ANSWER,
        perChatPredictionConfig={
            "fields": [{"key": "llm.prediction.systemPrompt", "value": SYSTEM}]
        },
    ),
    "Glaive": {"system": f"SYSTEM: {SYSTEM}", "chat": GLAIVE},
    "Glaive's first set": {"sample": f"SYSTEM: {SYSTEM}\n{GLAIVE}"},
    "a system prompt, question and answer": {"system": SYSTEM, "prompt": "Hi", "response": "Hello"},
}


@pytest.mark.parametrize("form", WITH_SYSTEM)
def test_a_system_prompt_is_read_wherever_its_program_keeps_it(tmp_path, form):
    """Beside the messages it was dropped silently once: 2.05 gaps were read in place of 0.46."""
    transcripts = read_transcripts([written(tmp_path, WITH_SYSTEM[form])])
    assert [talk.messages for talk in transcripts.conversations] == [TALK]
    assert transcripts.notes == ()


WITHOUT_SYSTEM: dict[str, tuple[Any, str, list[str]]] = {
    "OpenAssistant's rows": (
        "".join(json.dumps(row) + "\n" for row in OASST_ROWS[::2]),
        "rows.jsonl",
        ["t"],
    ),
    "OpenAssistant's rows in a table, answers first": (
        "message_id,parent_id,role,text,rank\na,t,assistant,Hello,0.0\nt,,prompter,Hi,\n"
        "a2,t2,assistant,Hello,\nt2,,prompter,Hi,\n",
        "rows.csv",
        ["t", "t2"],
    ),
    "Bedrock's Converse, a request and its response": (
        {"request": BEDROCK_ASKED, "response": BEDROCK_ANSWERED},
        "calls.jsonl",
        ["calls"],
    ),
    "Bedrock's Converse, both in an object": (
        {**BEDROCK_ASKED, **BEDROCK_ANSWERED},
        "calls.jsonl",
        ["calls"],
    ),
    "Bedrock's log of Converse": (
        bedrock_log(BEDROCK_ASKED, BEDROCK_ANSWERED),
        "log.json",
        ["r"],
    ),
    "Bedrock's log of a model's own form": (
        bedrock_log({"messages": BLOCKS[:1], "max_tokens": 9}, ANTHROPIC_REPLY),
        "log.json",
        ["r"],
    ),
    "Ollama, a request and its response": (
        {
            "request": {"model": "m", "messages": OPENAI[:1]},
            "response": {"model": "m", "message": OPENAI[1], "done": True},
        },
        "proxy.jsonl",
        ["proxy"],
    ),
    "LangChain's messages_to_dict": (LANGCHAIN, "history.json", ["history"]),
    "LangChain's messages_to_dict in a state": ({"messages": LANGCHAIN}, "s.json", ["s"]),
    "LangChain's dumps": (CONSTRUCTED, "history.json", ["history"]),
    "LangChain's dumps in a state": ({"messages": CONSTRUCTED}, "s.jsonl", ["s"]),
    "LangChain's histories, several": ([LANGCHAIN, CONSTRUCTED], "h.json", ["h#1", "h#2"]),
    "LangChain's messages in a list": (
        [{"type": "human", "content": "Hi"}, {"type": "ai", "content": "Hello"}],
        "h.json",
        ["h"],
    ),
    "LM Studio": (
        lm_studio(LM_USER, LM_ANSWER, systemPrompt=""),
        "1.conversation.json",
        ["1.conversation"],
    ),
    "LM Studio, an answer of a single step": (
        lm_studio(LM_USER, {**LM_USER, "role": "assistant", "content": LM_STEP["content"]}),
        "1.json",
        ["1"],
    ),
    "Glaive": ({"chat": GLAIVE}, "g.jsonl", ["g"]),
    "Claude's export": ([CLAUDE], "conversations.json", ["u"]),
    "Claude's export, an answer made again": ([CLAUDE_BRANCHED], "conversations.json", ["u"]),
    "Claude's export, back at the first answer": (
        {
            **{**CLAUDE_BRANCHED, "current_leaf_message_uuid": "b"},
            "chat_messages": [
                {**each, "text": {"b": "Hello", "c": "Goodbye"}.get(str(each["uuid"]), "Hi")}
                for each in CLAUDE_BRANCHED["chat_messages"]  # type: ignore[union-attr]
            ],
        },
        "conversations.json",
        ["u"],
    ),
    "ChatGPT's export of spoken turns": (
        chatgpt(
            said_in_chatgpt("user", {"content_type": "audio_transcription", "text": "Hi"}),
            said_in_chatgpt("assistant", {"content_type": "audio_transcription", "text": "Hello"}),
        ),
        "conversations.json",
        ["mine"],
    ),
    "LangChain's messages": (
        {
            "messages": [
                {"type": "human", "content": "Hi", "additional_kwargs": {}, "id": None},
                {"type": "ai", "content": "Hello", "tool_calls": [], "usage_metadata": None},
            ]
        },
        "langchain.jsonl",
        ["langchain"],
    ),
    "TRL's prompts and completions of messages": (
        {"prompt": OPENAI[:1], "completion": OPENAI[1:]},
        "trl.jsonl",
        ["trl"],
    ),
    "Open WebUI's export": ([OPEN_WEBUI], "chats.json", ["w"]),
    "UltraChat": ({"id": "0", "data": ["Hi", "Hello"]}, "ultra.jsonl", ["0"]),
    "preferences beside a prompt": (
        {"prompt": "Hi", "chosen": "Hello", "rejected": "No"},
        "dpo.jsonl",
        ["dpo"],
    ),
    "LMSYS": (
        {"conversation_id": "ab", "model": "m", "conversation": OPENAI, "turn": 1},
        "lmsys.jsonl",
        ["ab"],
    ),
    "WildChat": (
        {"conversation_hash": "f0", "conversation": [{**m, "toxic": False} for m in OPENAI]},
        "wild.jsonl",
        ["f0"],
    ),
    "the arena's two sides": (
        {"question_id": "q", "conversation_a": OPENAI, "conversation_b": OPENAI},
        "arena.jsonl",
        ["q/a", "q/b"],
    ),
    "text with speakers": ("User: Hi\n\nAssistant: Hello\n", "talk.txt", ["talk"]),
    "text in Markdown": ("**Human:** Hi\n\n**AI**: Hello\n", "talk.md", ["talk"]),
    "a table of messages": (
        "conversation_id,role,content\na,user,Hi\na,assistant,Hello\nb,user,Hi\nb,assistant,Hello\n",
        "talk.csv",
        ["a", "b"],
    ),
    "a table of pairs": ("prompt\tresponse\nHi\tHello\n", "talk.tsv", ["talk"]),
    "a table with messages in a column": (
        'nr,messages\n1,"' + json.dumps(OPENAI).replace('"', '""') + '"\n',
        "talk.csv",
        ["talk"],
    ),
    "Excel's table where a comma is the decimal sign": (
        "Role;Content\r\nuser;Hi\r\nassistant;Hello\r\n",
        "talk.csv",
        ["talk"],
    ),
    "Excel's table that names its separator": (
        "sep=;\r\nrole;content\r\nuser;Hi\r\nassistant;Hello\r\n",
        "talk.csv",
        ["talk"],
    ),
    "a table with tabs under another ending": ("prompt\tresponse\nHi\tHello\n", "t.csv", ["t"]),
    "a table with other columns": ("author,message\nuser,Hi\nassistant,Hello\n", "t.csv", ["t"]),
    "a table whose rows have numbers of turns": (
        "conversation_id,turn,role,content\na,10,assistant,Hello\na,9,user,Hi\n",
        "talk.csv",
        ["a"],
    ),
    "text in German": ("Benutzer: Hi\nAssistent: Hello\n", "talk.txt", ["talk"]),
    "text in French": ("Utilisateur : Hi\nAssistant : Hello\n", "talk.txt", ["talk"]),
    "text in Chinese": ("用户：Hi\n助手：Hello\n", "talk.txt", ["talk"]),
    "text in Japanese": ("ユーザー：Hi\nアシスタント：Hello\n", "talk.txt", ["talk"]),
    "text in Korean": ("사용자: Hi\n어시스턴트: Hello\n", "talk.txt", ["talk"]),
    "text in Arabic": ("المستخدم: Hi\nالمساعد: Hello\n", "talk.txt", ["talk"]),
    "text with times": ("[10:02] User: Hi\n[2024-01-02 10:03] AI: Hello\n", "t.txt", ["t"]),
    "headings in Markdown": ("### User\n\nHi\n\n### Assistant\n\nHello\n", "t.md", ["t"]),
    "Alpaca": ({"instruction": "Hi", "input": "", "output": "Hello"}, "a.jsonl", ["a"]),
}


@pytest.mark.parametrize("form", WITHOUT_SYSTEM)
def test_every_program_s_form_reads_alike(tmp_path, form):
    value, name, ids = WITHOUT_SYSTEM[form]
    transcripts = read_transcripts([written(tmp_path, value, name)])
    assert [talk.messages for talk in transcripts.conversations] == [SPOKEN] * len(ids)
    assert [talk.id for talk in transcripts.conversations] == ids
    assert transcripts.notes == ()


def test_a_conversation_s_domain_is_its_own_or_its_file_s(tmp_path):
    """Beside the messages, in their metadata, outside a logged request, in a table's column."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    reply = {"choices": [{"message": turns[1]}]}
    lines = [
        {"messages": turns, "domain": " therapy "},
        {"messages": turns, "metadata": {"domain": "coding"}},
        {"request": {"messages": turns[:1]}, "response": reply, "domain": "neutral"},
        {"messages": turns, "domain": ""},
        {"messages": turns, "metadata": "none"},
        {"messages": turns, "domain": "  "},
    ]
    logs = written(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "logs.jsonl")
    table = "conversation_id,domain,role,content\n1,law,user,Hi\n1,,assistant,Hello\n"
    rows = written(tmp_path, table + "2,,user,Hi\n2,,assistant,Hello\n", "rows.csv")
    read = read_transcripts([logs, rows])
    assert read.domains == ("therapy", "coding", "neutral", "logs", "logs", "logs", "law", "rows")
    assert len(read.conversations) == len(read.domains)


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ({"domain": ["law"]}, "domain that is a list"),
        ({"domain": {"name": "law"}}, "domain that is an object"),
        ({"domain": True}, "domain that is a boolean"),
        ({"domain": 0.5}, "domain that is a number"),
        ({"metadata": {"domain": [1]}}, "domain that is a list"),
        ({"conversation_id": ["a", 1]}, "id that is a list"),
        ({"conversation_id": {"$oid": "5f"}}, "id that is an object"),
        ({"conversation_id": True}, "id that is a boolean"),
    ],
)
def test_a_label_that_is_no_text_costs_no_turn_and_is_said(tmp_path, field, kind):
    """A domain that was a list refused the whole conversation once."""
    path = written(tmp_path, {"messages": OPENAI, **field}, "logs.jsonl")
    read = read_transcripts([path])
    assert (read.domains, read.conversations) == (("logs",), (Conversation(SPOKEN, "logs"),))
    assert [*read.summary()] == [f"1 × {kind} left out, first in {path} line 1"]


def test_a_label_may_be_a_whole_number_and_is_one_printable_line(tmp_path):
    lines = [{"domain": 0, "conversation_id": 7}, {"domain": "law\n\ud800 two"}]
    text = "".join(json.dumps({"messages": OPENAI, **line}) + "\n" for line in lines)
    read = read_transcripts([written(tmp_path, text, "logs.jsonl")])
    assert read.domains == ("0", "law ? two")
    assert [talk.id for talk in read.conversations] == ["7", "logs#2"]
    assert read.notes == ()


def row(id: Any, parent: Any, role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"message_id": id, "parent_id": parent, "role": role, "text": text, **more}


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([row("a", "b", "prompter", "?"), row("b", "a", "assistant", "!")], "circle .* a among"),
        ([row("a", "a", "prompter", "?"), row("b", "a", "assistant", "!")], "circle .* a among"),
        ([row(["a"], None, "prompter", "?")], "has keys 'message_id'"),
        ([row(None, None, "prompter", "?")], "has keys 'message_id'"),
        (
            [
                row("a", None, "prompter", "?"),
                row("b", "a", "assistant", "!", rank="first"),
                row("c", "a", "assistant", "!", rank=1),
            ],
            "not in the shape .* 'first'",
        ),
    ],
)
def test_rows_that_make_no_tree_are_refused_and_others_of_their_file_read(tmp_path, rows, fault):
    """They were lost without a word, or a traceback."""
    text = "".join(json.dumps(each) + "\n" for each in [*OASST_ROWS[::2], *rows])
    text = text.replace('"message_id": "a"', '"message_id": "z"', 1)
    path = written(tmp_path, text, "rows.jsonl")
    with pytest.raises(UsageError, match=fault):
        read_transcripts([path])
    read = read_transcripts([path], skip_unreadable=True)
    assert ([talk.messages for talk in read.conversations], len(read.skipped)) == ([SPOKEN], 1)


BESIDE_OTHERS: dict[str, tuple[Any, str]] = {
    "OpenAssistant's rows": (
        "".join(json.dumps(row) + "\n" for row in OASST_ROWS),
        "1 × other reply left out",
    ),
    "LM Studio's answer made again": (
        lm_studio(LM_USER)
        | {
            "messages": [
                {"versions": [LM_USER], "currentlySelected": 0},
                {"versions": [{**LM_ANSWER, "steps": []}, LM_ANSWER], "currentlySelected": 1},
            ]
        },
        "1 × other version left out",
    ),
    "OpenAssistant's tree": (OASST, "2 × other reply left out"),
    "Anthropic's HH": (
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi"},
        "rejected conversation left out",
    ),
    "preferences as lists of messages": (
        {"chosen": OPENAI, "rejected": OPENAI[:1], "prompt": "Hi", "score_chosen": 8},
        "rejected conversation left out",
    ),
}


@pytest.mark.parametrize("form", BESIDE_OTHERS)
def test_of_several_conversations_the_best_is_read_and_the_others_are_counted(tmp_path, form):
    value, said = BESIDE_OTHERS[form]
    read = read_transcripts([written(tmp_path, value)])
    assert [talk.messages for talk in read.conversations] == [SPOKEN]
    assert said in " ".join(read.summary())


def test_open_webui_s_system_prompt_is_read_out_of_its_chat(tmp_path):
    """It stands among the parameters of the chat, or beside its messages."""
    for where in ({"params": {"system": SYSTEM}}, {"system": SYSTEM, "params": {"system": None}}):
        value = {**OPEN_WEBUI, "chat": {**OPEN_WEBUI["chat"], **where}}
        (talk,) = read_conversations(written(tmp_path, [value]))
        assert talk.messages == TALK


def test_a_text_s_turns_may_have_many_lines(tmp_path):
    text = "System: Be kind.\nUser: Hi\n\nNote: I am tired.\nAssistant:\nHello\n\n- a\n- b\n"
    (talk,) = read_conversations(written(tmp_path, text, "t.txt"))
    assert [m.content for m in talk.messages] == [
        "Be kind.",
        "Hi\n\nNote: I am tired.",
        "Hello\n\n- a\n- b",
    ]


@pytest.mark.parametrize("assistant", ["Assistant", "GPT-4"])
def test_a_text_whose_user_has_a_name_is_not_read_without_the_user(tmp_path, assistant):
    """`Anna:` became a preamble that was left out once, and half a conversation was measured."""
    path = written(tmp_path, f"Anna: Hi\n{assistant}: Hello\n", "t.txt")
    with pytest.raises(UsageError, match="'Anna'.* before a colon.*; write User: and Assistant:"):
        read_conversations(path)


def test_gemini_s_thoughts_are_thinking_not_the_answer(tmp_path):
    thought = {"text": "A greeting.", "thought": True}
    turns = [
        {"role": "user", "parts": [{"text": "Hi"}]},
        {"role": "model", "parts": [thought, {"text": "Hello"}]},
    ]
    (talk,) = read_conversations(written(tmp_path, {"contents": turns}))
    assert talk.messages == (SPOKEN[0], Message("assistant", "Hello", thinking="A greeting."))


@pytest.mark.parametrize("name", ["log.eval", "export.zip"])
def test_inspect_s_log_and_an_export_are_read_out_of_their_zip(tmp_path, name):
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if name == "log.eval":
            archive.writestr("header.json", "{}")
            archive.writestr("samples/q1_epoch_1.json", json.dumps(SAMPLE))
        else:
            archive.writestr("conversations.json", json.dumps([CLAUDE]))
    (talk,) = read_conversations(path)
    assert talk.messages[-2:] == SPOKEN


def test_inspect_s_own_log_of_an_evaluation_is_read(tmp_path):
    """Its mock of a model would fetch a tokenizer, so the answer is put there by a solver."""
    inspect_ai = pytest.importorskip("inspect_ai")
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ChatMessageAssistant
    from inspect_ai.solver import Generate, TaskState, solver, system_message

    @solver
    def greet() -> Any:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            state.messages.append(ChatMessageAssistant(content="Hello"))
            return state

        return solve

    task = inspect_ai.Task([Sample("Hi")], solver=[system_message(SYSTEM), greet()])
    logs = inspect_ai.eval(task, model="mockllm/model", log_dir=str(tmp_path), display="none")
    (talk,) = read_conversations(Path(logs[0].location.removeprefix("file://")))
    assert talk.messages == TALK


def test_rows_of_parquet_are_conversations(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [{"conversation_hash": "f0", "conversation": OPENAI}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "wild.parquet")
    assert read_conversations(tmp_path / "wild.parquet") == [Conversation(SPOKEN, "f0")]


BATCHES = {
    "OpenAI": (
        {"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": REQUEST},
        {"id": "b", "custom_id": "r1", "response": {"status_code": 200, "body": COMPLETION}},
    ),
    "Anthropic": (
        {"custom_id": "r1", "params": ANTHROPIC_REQUEST},
        {"custom_id": "r1", "result": {"type": "succeeded", "message": ANTHROPIC_REPLY}},
    ),
}


@pytest.mark.parametrize("whose", BATCHES)
def test_a_batch_s_answers_are_read_with_their_requests(tmp_path, whose):
    request, answer = BATCHES[whose]
    files = [
        written(tmp_path, request, "requests.jsonl"),
        written(tmp_path, answer, "answers.jsonl"),
    ]
    for order in (files, files[::-1]):
        assert read_transcripts(order).conversations == (Conversation(TALK, "r1"),)


def test_a_batch_s_answers_alone_are_refused_with_what_is_missing(tmp_path):
    answers = written(tmp_path, BATCHES["OpenAI"][1], "answers.jsonl")
    with pytest.raises(UsageError, match=r"without its request 'r1'; give the batch's file of req"):
        read_transcripts([answers])


def test_an_answer_that_failed_is_no_conversation(tmp_path):
    failed = {"custom_id": "r1", "response": None, "error": {"code": "expired"}}
    with pytest.raises(UsageError, match=r"'r1' was answered with an error.*expired"):
        read_transcripts([written(tmp_path, failed)])


NOTED: dict[str, tuple[list[Any], tuple[Message, ...], list[str]]] = {
    "a tool's call and result between two turns": (
        [
            OPENAI[0],
            {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]},
            {"role": "tool", "content": "3"},
            OPENAI[1],
        ],
        SPOKEN,
        ["tool call left out", "tool result left out"],
    ),
    "words before a call and after its result": (
        [
            OPENAI[0],
            {"role": "assistant", "content": "Let me see.", "tool_calls": [{"id": "a"}]},
            {"role": "tool", "content": "3"},
            OPENAI[1],
        ],
        (SPOKEN[0], Message("assistant", "Let me see.\n\nHello")),
        ["tool call left out", "tool result left out"],
    ),
    "Anthropic's blocks of tools": (
        [
            BLOCKS[0],
            {"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "content": "3"}]},
            BLOCKS[1],
        ],
        SPOKEN,
        ["tool call left out", "tool result left out"],
    ),
    "an image beside words": (
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}, IMAGE]}, OPENAI[1]],
        SPOKEN,
        ["image left out"],
    ),
    "a later system message": (
        [*OPENAI, {"role": "system", "content": "Be a ghost."}, *OPENAI],
        (*SPOKEN, Message("user", "Be a ghost.\n\nHi"), SPOKEN[1]),
        ["later system message read with the user's text"],
    ),
    "a null content": (
        [*OPENAI, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": None}],
        (*SPOKEN, Message("user", "Bye"), Message("assistant", "")),
        ["message without text read as an empty turn"],
    ),
    "a first answer that is null, and a second": (
        [OPENAI[0], {"role": "assistant", "content": None}, *OPENAI],
        (SPOKEN[0], Message("assistant", ""), *SPOKEN),
        ["message without text read as an empty turn"],
    ),
    "answers without content, with an empty list and with an empty part": (
        [
            *(OPENAI[0], {"role": "assistant"}, OPENAI[0], {"role": "assistant", "content": []}),
            *(OPENAI[0], {"role": "assistant", "content": [{"type": "text", "text": ""}]}),
            *OPENAI,
        ],
        (*((SPOKEN[0], Message("assistant", "")) * 3), *SPOKEN),
        ["message without text read as an empty turn"] * 2,
    ),
    "an answer that begins with null goes on": (
        [OPENAI[0], {"role": "assistant", "content": None}, OPENAI[1]],
        SPOKEN,
        ["message without text read as an empty turn"],
    ),
    "an image alone between two answers": (
        [*OPENAI, {"role": "user", "content": [IMAGE]}, OPENAI[1]],
        (*SPOKEN, Message("user", ""), SPOKEN[1]),
        ["image left out"],
    ),
    "a refusal": (
        [OPENAI[0], {"role": "assistant", "content": None, "refusal": "I cannot."}],
        (SPOKEN[0], Message("assistant", "I cannot.")),
        [],
    ),
}


@pytest.mark.parametrize("case", NOTED)
def test_the_turns_that_can_be_read_are_and_what_not_is_noted(tmp_path, case):
    """Each of these was an error once, or refused the whole file."""
    messages, expected, notes = NOTED[case]
    transcripts = read_transcripts([written(tmp_path, {"messages": messages})])
    assert transcripts.conversations[0].messages == expected
    assert [note.what for note in transcripts.notes] == notes


@pytest.mark.parametrize("key", ["tools", "functions", "persona", "context", "system_config"])
def test_a_field_by_which_the_model_saw_more_is_never_dropped_silently(tmp_path, key):
    value = {"messages": OPENAI, key: [{"name": "search"}]}
    transcripts = read_transcripts([written(tmp_path, value)])
    assert [n.what for n in transcripts.notes] == [f"field '{key}' beside the messages left out"]
    with pytest.warns(UserWarning, match=f"1 × field '{key}'"):
        read_conversations(written(tmp_path, value))


def test_tools_of_a_logged_request_are_noted_too(tmp_path):
    value = {"request": {**REQUEST, "tools": [{"name": "f"}]}, "response": COMPLETION}
    transcripts = read_transcripts([written(tmp_path, value)])
    assert [n.what for n in transcripts.notes] == ["field 'tools' beside the messages left out"]


def test_a_field_that_repeats_a_message_is_no_loss(tmp_path):
    value = {"messages": OPENAI, "prompt": "Hi", "prompt_id": "7", "system_fingerprint": "fp"}
    assert read_transcripts([written(tmp_path, value)]).notes == ()


def test_unreadable_lines_are_skipped_and_counted_where_that_is_asked_for(tmp_path):
    good, bad = json.dumps({"messages": OPENAI}), ["{oops", '{"messages": []}', '{"x": 1}']
    path = written(tmp_path, "\n".join([good, *bad, good]), "talk.jsonl")
    transcripts = read_transcripts([path], skip_unreadable=True)
    assert [talk.id for talk in transcripts.conversations] == ["talk#1", "talk#5"]
    assert len(transcripts.skipped) == 3
    (line,) = transcripts.summary()
    assert line.startswith("3 not readable and skipped, first: ")
    assert "talk.jsonl line 2 is not valid JSON" in line
    with pytest.raises(UsageError, match="line 2 is not valid JSON.*--skip-unreadable goes on"):
        read_transcripts([path])


def test_where_all_are_unreadable_skipping_them_is_no_way_on(tmp_path):
    path = written(tmp_path, '{"x": 1}\n{"x": 2}', "talk.jsonl")
    with pytest.raises(UsageError, match="none of 2 conversations can be read, first: .*line 1"):
        read_transcripts([path], skip_unreadable=True)


@pytest.mark.parametrize(
    "value",
    [
        {"mapping": {"a": 3}, "current_node": "a"},
        {"eval": {}, "samples": [{"id": 1}]},
        {"request": {"messages": 3}, "response": COMPLETION},
        {"messages": OPENAI[:1], "choices": [3]},
    ],
)
def test_a_damaged_export_is_refused_with_its_location(tmp_path, value):
    with pytest.raises(UsageError, match=r"talk.json has keys .*export it again, or mend it"):
        read_transcripts([written(tmp_path, value)])


def test_text_in_utf_16_is_read(tmp_path):
    path = tmp_path / "talk.txt"
    path.write_text("User: Hi\nAssistant: Hello", encoding="utf-16")
    (talk,) = read_conversations(path)
    assert talk.messages == SPOKEN


def test_a_user_s_own_form_is_tried_first(tmp_path):
    @transcript_form("test form")
    def mine(value: dict[str, Any]) -> list[Outline]:
        return [Outline(value["log"], id="own")] if "log" in value else []

    try:
        value = {"log": OPENAI, "messages": []}
        assert read_conversations(written(tmp_path, value)) == [Conversation(SPOKEN, "own")]
    finally:
        FORMS._values.pop("test form")


CALLED = (Message("user", "Hi"), Message("assistant", "I look.\n\nHello"))
CALL = {"toolUse": {"toolUseId": "1", "name": "look", "input": {}}}
RESULT = {"toolResult": {"toolUseId": "1", "content": [{"text": "3"}]}}
WITH_CALLS: dict[str, Any] = {
    "Glaive": {
        "chat": 'USER: Hi\n\n\nASSISTANT: I look. <functioncall> {"name": "look"} <|endoftext|>'
        '\n\n\nFUNCTION RESPONSE: {"n": 3}\n\n\nASSISTANT: Hello <|endoftext|>'
    },
    "Bedrock's Converse": {
        "messages": [
            BEDROCK_ASKED["messages"][0],
            {"role": "assistant", "content": [{"text": "I look."}, CALL]},
            {"role": "user", "content": [RESULT]},
            {"role": "assistant", "content": [{"text": "Hello"}]},
        ]
    },
    "LangChain": [
        LANGCHAIN[0],
        {"type": "ai", "data": {"content": "I look.", "tool_calls": [{"name": "look"}]}},
        {"type": "tool", "data": {"content": "3", "type": "tool", "tool_call_id": "1"}},
        LANGCHAIN[1],
    ],
    "LM Studio": lm_studio(
        LM_USER,
        {
            "type": "multiStep",
            "role": "assistant",
            "steps": [
                {"type": "contentBlock", "content": [{"type": "text", "text": "I look.\n\n"}]},
                {"type": "contentBlock", "content": [{"type": "toolCallRequest", "name": "look"}]},
                {"type": "contentBlock", "content": [{"type": "toolCallResult", "content": "3"}]},
                LM_STEP,
            ],
        },
    ),
}


@pytest.mark.parametrize("form", WITH_CALLS)
def test_calls_of_tools_and_their_results_are_left_out_by_those_names(tmp_path, form):
    read = read_transcripts([written(tmp_path, WITH_CALLS[form])])
    assert [talk.messages for talk in read.conversations] == [CALLED]
    assert {note.what for note in read.notes} == {"tool call left out", "tool result left out"}


THOUGHT: dict[str, Any] = {
    "Bedrock's Converse": {
        "messages": [
            BEDROCK_ASKED["messages"][0],
            {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "s"}}},
                    {"text": "Hello"},
                ],
            },
        ]
    },
    "LM Studio": lm_studio(
        LM_USER,
        {
            "type": "multiStep",
            "role": "assistant",
            "steps": [
                {**LM_STEP, "content": [{"text": "Hm."}], "style": {"type": "thinking"}},
                LM_STEP,
            ],
        },
    ),
    "LangChain": [
        LANGCHAIN[0],
        {"type": "ai", "data": {"content": "Hello", "additional_kwargs": {"reasoning": "Hm."}}},
    ],
}


@pytest.mark.parametrize("form", THOUGHT)
def test_thinking_is_kept_apart_from_the_answer(tmp_path, form):
    (talk,) = read_conversations(written(tmp_path, THOUGHT[form]))
    assert talk.messages == (SPOKEN[0], Message("assistant", "Hello", thinking="Hm."))
