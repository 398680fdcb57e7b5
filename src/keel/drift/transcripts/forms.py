"""What programs write conversations as: one registered adapter each, from a value to outlines.

    @transcript_form("mine")
    def mine(value: dict[str, Any]) -> list[Outline]:
        return [Outline(value["log"], id=value["nr"])] if "log" in value else []

An adapter says where the messages are, and leaves their words to `messages`. A package offers its
own as an entry point of the group `keel.transcripts`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from keel.drift.transcripts.messages import is_dump
from keel.errors import UsageError
from keel.registry import Registry


@dataclass(frozen=True)
class Outline:
    """Where a conversation's parts are: its messages as their program writes them, and its id."""

    messages: Any
    """A list of messages; anything else is refused with the location."""
    id: Any = None
    beside: dict[str, Any] | None = None
    """The object whose fields stand beside the messages; None: the object that was read."""
    answers: str = ""
    """Of an answer kept apart from what it answers: the id of that request."""
    requests: str = ""
    """Of a request: the id under which an answer names it."""
    notes: tuple[str, ...] = ()
    """What was left out, such as `second choice left out`."""


Form = Callable[[dict[str, Any]], list[Outline]]
"""The outlines of the conversations in a JSON object; none where it is of another form."""

FORMS: Registry[Form] = Registry("transcript_form", "keel.transcripts")

F = TypeVar("F", bound=Form)


def transcript_form(name: str) -> Callable[[F], F]:
    """Decorator: registers an adapter under a name. Later ones are tried first."""

    def register(form: F) -> F:
        FORMS.add(name, form, form)
        return form

    return register


def outlines_of(value: Any) -> list[Outline]:
    """The conversations in a value, by the first form that reads it; none where no form does."""
    if isinstance(value, list):
        return outlines_of({"messages": value})
    if not isinstance(value, dict):
        return []
    for form in [*FORMS.registered.values()][::-1]:
        if outlines := form(value):
            return outlines
    return []


def load_forms() -> None:
    """Imports the packages that offer a form. Raises UsageError where one cannot be imported."""
    for name in FORMS.names():
        FORMS.get(name)


_REPLY_KEYS = ("response", "completion", "choices", "answer", "output", "reply")


@transcript_form("pairs")
def _pairs(value: dict[str, Any]) -> list[Outline]:
    """A question and its answer in two fields, as in tables and in sets for fine-tuning."""
    asks = next(
        (k for k in ("user", "prompt", "question", "instruction", "human") if k in value), ""
    )
    replies = ("assistant", "response", "completion", "answer", "output", "chosen", "gpt")
    answers = next((k for k in replies if k in value), "")
    if not (asks and answers):
        return []
    if isinstance(value[asks], list) and isinstance(value[answers], list):  # TRL's, of messages
        beside = {key: item for key, item in value.items() if key not in (asks, answers)}
        return [Outline([*value[asks], *value[answers]], beside=beside)]
    if not all(isinstance(value[k], str) for k in (asks, answers)):
        return []
    more = value.get("input") if asks == "instruction" else None
    question = "\n\n".join(filter(None, [value[asks], more]))
    return [Outline([_said("user", question), _said("assistant", value[answers])])]


@transcript_form("openai")
def _openai(value: dict[str, Any]) -> list[Outline]:
    """`messages` of OpenAI and Anthropic, with the answer beside them where there is one."""
    if "messages" not in value:
        return []
    messages = value["messages"]
    key = next((k for k in _REPLY_KEYS if value.get(k)), None)
    if key is None or not isinstance(messages, list) or not messages:
        return [Outline(messages)]
    if isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
        return [Outline(messages)]
    reply, notes = _reply(value if key == "choices" else value[key])
    return [Outline([*messages, *reply], notes=notes)]


@transcript_form("responses")
def _responses(value: dict[str, Any]) -> list[Outline]:
    """A request of OpenAI's Responses: `input`, and `output` where it was answered."""
    given = value.get("input")
    items = [_said("user", given)] if isinstance(given, str) else given
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return []
    if "instruction" in value:
        return []
    reply, notes = _reply(value.get("output"))
    return [Outline([*items, *reply], notes=notes)]


@transcript_form("gemini")
def _gemini(value: dict[str, Any]) -> list[Outline]:
    """`contents` of Gemini's API."""
    return [Outline(value["contents"])] if isinstance(value.get("contents"), list) else []


@transcript_form("reference")
def _reference(value: dict[str, Any]) -> list[Outline]:
    """`conversation`: the paper's transcripts, LMSYS-Chat-1M."""
    return [Outline(value["conversation"])] if "conversation" in value else []


@transcript_form("wildchat")
def _wildchat(value: dict[str, Any]) -> list[Outline]:
    """WildChat's `conversation`, under the hash that it is known by."""
    if "conversation" not in value or "conversation_hash" not in value:
        return []
    return [Outline(value["conversation"], id=value["conversation_hash"])]


@transcript_form("arena")
def _arena(value: dict[str, Any]) -> list[Outline]:
    """LMSYS' arena: two models' conversations beside each other."""
    name = value.get("question_id", value.get("conversation_id", "arena"))
    sides = [side for side in ("a", "b") if f"conversation_{side}" in value]
    return [Outline(value[f"conversation_{side}"], id=f"{name}/{side}") for side in sides]


@transcript_form("sharegpt")
def _sharegpt(value: dict[str, Any]) -> list[Outline]:
    """ShareGPT's `conversations`, or `items`, with `from` and `value`."""
    key = next((k for k in ("conversations", "items") if isinstance(value.get(k), list)), None)
    return [] if key is None else [Outline(value[key], id=value.get("id"))]


@transcript_form("claude")
def _claude(value: dict[str, Any]) -> list[Outline]:
    """A conversation of Claude's export: the branch that was last on the screen."""
    if "chat_messages" not in value:
        return []
    messages = value["chat_messages"]
    parents = {each.get("uuid"): each.get("parent_message_uuid") for each in messages}
    leaf = value.get("current_leaf_message_uuid")
    leaf = leaf if leaf in parents else next(reversed(parents), None)
    branch = _branch(parents, leaf)
    if any(parents.values()):  # some exports do not say what answers what
        messages = [each for each in messages if each.get("uuid") in branch]
    return [Outline(messages, id=value.get("uuid"))]


@transcript_form("chatgpt")
def _chatgpt(value: dict[str, Any]) -> list[Outline]:
    """A conversation of ChatGPT's export: the branch of its tree that was last on the screen."""
    nodes = value.get("mapping")
    if not isinstance(nodes, dict):
        return []
    leaf = value.get("current_node")
    if leaf not in nodes:  # the last of the nodes that nothing follows
        leaf = next((n for n in reversed(nodes) if not nodes[n].get("children")), None)
    branch = _branch({name: node.get("parent") for name, node in nodes.items()}, leaf)
    messages = [nodes[name]["message"] for name in branch if nodes[name].get("message")]
    name = value.get("conversation_id", value.get("id"))
    return [Outline([_of_chatgpt(message) for message in messages], id=name)]


def _of_chatgpt(message: dict[str, Any]) -> dict[str, Any]:
    """Custom instructions as the system's words, and what goes to a tool as a call of it."""
    content = message.get("content")
    if isinstance(content, dict) and content.get("content_type") == "user_editable_context":
        texts = (content.get(key) for key in ("user_profile", "user_instructions"))
        return _said("system", "\n\n".join(filter(None, texts)))
    if message.get("recipient", "all") != "all":
        return {"type": "tool_call"}
    return message


@transcript_form("open-webui")
def _open_webui(value: dict[str, Any]) -> list[Outline]:
    """A chat of Open WebUI's export: the branch that was last on the screen."""
    chat = value.get("chat")
    if not isinstance(chat, dict) or "messages" not in chat:
        return []
    history = chat.get("history") or {}
    nodes, messages = history.get("messages") or {}, chat["messages"]
    parents = {name: node.get("parentId") for name, node in nodes.items()}
    if branch := _branch(parents, history.get("currentId")):
        messages = [nodes[name] for name in branch]
    set_apart = {key: item for key, item in (chat.get("params") or {}).items() if item}
    return [Outline(messages, id=value.get("id"), beside={**chat, **set_apart})]


@transcript_form("lm-studio")
def _lm_studio(value: dict[str, Any]) -> list[Outline]:
    """A conversation of LM Studio: of each turn the version that is on the screen."""
    turns = value.get("messages")
    if not (isinstance(turns, list) and turns and isinstance(turns[0], dict)):
        return []
    if "versions" not in turns[0]:
        return []
    own = (value.get("perChatPredictionConfig") or {}).get("fields") or []
    prompts = [each["value"] for each in own if each["key"] == "llm.prediction.systemPrompt"]
    beside = {"system": value.get("systemPrompt") or next(iter(prompts), "")}
    shown = [turn["versions"][turn.get("currentlySelected", 0)] for turn in turns]
    others = sum(len(turn["versions"]) - 1 for turn in turns)
    notes = ("other version left out",) * others
    return [Outline([_in_steps(each) for each in shown], beside=beside, notes=notes)]


def _in_steps(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn as one message, of what its steps show and what was thought in them."""
    if "steps" not in turn:
        return turn
    content: list[dict[str, Any]] = []
    for step in turn["steps"]:
        is_thinking = (step.get("style") or {}).get("type") == "thinking"
        parts = step.get("content") or []
        content += [{"thinking": part.get("text")} if is_thinking else part for part in parts]
    return _said(turn["role"], content)


def _branch(parents: Mapping[Any, Any], leaf: Any) -> list[Any]:
    """The names from a tree's root to a leaf; none where there is no such leaf."""
    branch: list[Any] = []
    while leaf in parents and leaf not in branch:
        branch.append(leaf)
        leaf = parents[leaf]
    return branch[::-1]


@transcript_form("oasst")
def _oasst(value: dict[str, Any]) -> list[Outline]:
    """A tree of OpenAssistant: at each message the reply that people ranked first."""
    node = value.get("prompt")
    if not (isinstance(node, dict) and "replies" in node):
        return []
    messages, others = [], 0
    while node is not None:
        messages.append(_said(node.get("role", ""), node.get("text")))
        replies = sorted(node.get("replies") or [], key=_rank)
        others += max(len(replies) - 1, 0)
        node = replies[0] if replies else None
    notes = ("other reply left out",) * others
    return [Outline(messages, id=value.get("message_tree_id"), beside={}, notes=notes)]


def _rank(reply: dict[str, Any]) -> float:
    """0 is the best; replies that nobody ranked come last, as they stand."""
    rank = reply.get("rank")
    return math.inf if rank is None else float(rank)


@transcript_form("ultrachat")
def _ultrachat(value: dict[str, Any]) -> list[Outline]:
    """UltraChat's `data`: texts of user and assistant in turn."""
    texts = value.get("data")
    if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
        return []
    speakers = itertools.cycle(("user", "assistant"))
    messages = [_said(speaker, text) for speaker, text in zip(speakers, texts, strict=False)]
    return [Outline(messages, id=value.get("id"))]


_GLAIVE_TURN = re.compile(r"^\s*(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE):", re.M)
_GLAIVE_ROLES = {"FUNCTION RESPONSE": "tool"}


@transcript_form("glaive")
def _glaive(value: dict[str, Any]) -> list[Outline]:
    """Glaive's calls of functions: one text in `chat`, or with its system prompt in `sample`."""
    text = value.get("chat", value.get("sample"))
    if not (isinstance(text, str) and _GLAIVE_TURN.match(text)):
        return []
    system = value.get("system")
    if isinstance(system, str):
        text = f"SYSTEM:{system.strip().removeprefix('SYSTEM:')}\n{text}"
    pieces = _GLAIVE_TURN.split(text)
    messages = []
    for who, said in zip(pieces[1::2], pieces[2::2], strict=True):
        shown, _, call = said.replace("<|endoftext|>", "").partition("<functioncall>")
        message = _said(_GLAIVE_ROLES.get(who, who), shown.strip() or None)
        messages.append({**message, "function_call": call.strip()})
    return [Outline(messages, id=value.get("id"), beside={})]


_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


@transcript_form("preferences")
def _preferences(value: dict[str, Any]) -> list[Outline]:
    """Of two conversations the chosen: Anthropic's HH as text, others as lists of messages."""
    chosen, notes = value.get("chosen"), ("rejected conversation left out",)
    if "rejected" not in value or "messages" in value:
        return []
    if isinstance(chosen, str) and _HH_TURN.match(chosen):
        pieces = _HH_TURN.split(chosen)
        turns = zip(pieces[1::2], pieces[2::2], strict=True)
        return [Outline([_said(who, text.strip()) for who, text in turns], beside={}, notes=notes)]
    if isinstance(chosen, list) and len(chosen) > 1:
        return [Outline(chosen, notes=notes)]
    return []


@transcript_form("inspect")
def _inspect(value: dict[str, Any]) -> list[Outline]:
    """An Inspect log's samples, or one sample of it."""
    samples = value.get("samples")
    if not (isinstance(samples, list) and "eval" in value):
        samples = [value] if {"messages", "epoch"} <= value.keys() else []
    return [
        Outline(
            [_attached(m, sample.get("attachments") or {}) for m in sample["messages"]],
            id=f"{sample['id']}@{sample['epoch']}",
            beside=sample,
        )
        for sample in samples
    ]


def _attached(value: Any, attachments: dict[str, str]) -> Any:
    """A message with the long texts that its log keeps apart, and names by hash."""
    if isinstance(value, dict):
        return {key: _attached(item, attachments) for key, item in value.items()}
    if isinstance(value, list):
        return [_attached(item, attachments) for item in value]
    if isinstance(value, str) and value.startswith("attachment://"):
        return attachments.get(value.removeprefix("attachment://"), value)
    return value


def _with_reply(request: dict[str, Any], response: Any, id: Any) -> list[Outline]:
    """The conversations that a request holds, each with its response as the last turn."""
    reply, notes = _reply(response)
    return [
        Outline([*outline.messages, *reply], id=id, beside=request, notes=notes)
        for outline in outlines_of(request)
    ]


@transcript_form("exchange")
def _exchange(value: dict[str, Any]) -> list[Outline]:
    """A request and its response, as a proxy logs them."""
    request, response = (_body(value.get(key)) for key in ("request", "response"))
    if not request or not response:
        return []
    return _with_reply(request, response, value.get("id"))


@transcript_form("bedrock")
def _bedrock(value: dict[str, Any]) -> list[Outline]:
    """A call as Amazon Bedrock logs it: of Converse, or of a model's own form."""
    sides = {side: value.get(side) for side in ("input", "output")}
    request, response = (
        each.get(f"{side}BodyJson") if isinstance(each, dict) else None
        for side, each in sides.items()
    )
    if not isinstance(request, dict):
        return []
    return _with_reply(request, response, value.get("requestId"))


@transcript_form("langchain")
def _langchain(value: dict[str, Any]) -> list[Outline]:
    """Messages that LangChain dumped, by either of its two functions, in a list or a state."""
    messages = value.get("messages")
    if not (isinstance(messages, list) and any(map(is_dump, messages))):
        return []
    return [Outline([_undumped(each) if is_dump(each) else each for each in messages])]


def _undumped(value: dict[str, Any]) -> dict[str, Any]:
    fields = value["kwargs"] if "kwargs" in value else value["data"]
    name = str(value["id"][-1] if "kwargs" in value else value["type"]).lower()
    name = name.removesuffix("chunk").removesuffix("message")
    more = fields.get("additional_kwargs") or {}
    return {"role": name, **more, **fields, "type": "message"}


@transcript_form("batch")
def _batch(value: dict[str, Any]) -> list[Outline]:
    """A line of OpenAI's or Anthropic's batches: a request, or the answer to one by its id."""
    name = value.get("custom_id")
    if not isinstance(name, str):
        return []
    if request := _body(value.get("body", value.get("params"))):
        return [
            Outline(o.messages, id=name, beside=request, requests=name, notes=o.notes)
            for o in outlines_of(request)
        ]
    result = _body(value.get("response", value.get("result")))
    result = result.get("message", result)
    if value.get("error") or result.get("error") or not result:
        fault = value.get("error") or result.get("error") or "no response"
        raise UsageError(f"request {name!r} was answered with an error: {str(fault)[:120]}")
    reply, notes = _reply(result)
    return [Outline(reply, id=name, answers=name, notes=notes)]


def _body(value: Any) -> dict[str, Any]:
    """A request or response itself, out of what a log wraps it in."""
    inner = value.get("body", value) if isinstance(value, dict) else {}
    return inner if isinstance(inner, dict) else {}


def _said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _reply(value: Any) -> tuple[list[Any], tuple[str, ...]]:
    """Messages of an answer as an API returns it, and what was left out."""
    if isinstance(value, str):
        return [_said("assistant", value)], ()
    if isinstance(value, list):
        return list(value), ()
    if not isinstance(value, dict):
        return [], ()
    if isinstance(choices := value.get("choices"), list) and choices:
        message = choices[0].get("message", _said("assistant", choices[0].get("text")))
        return [message], ("other choice left out",) * (len(choices) - 1)
    if isinstance(value.get("output"), list | dict):  # Responses', or Bedrock's Converse
        return _reply(value["output"])
    if isinstance(value.get("message"), dict):  # Converse's and Ollama's
        return [value["message"]], ()
    return [{"role": "assistant", **value}] if "content" in value else [], ()


_SYSTEM_KEYS = frozenset({
    *("system", "systemprompt", "systemmessage", "systeminstruction", "systeminstructions"),
    *("instructions", "developer", "developermessage", "developerprompt"),
})  # fmt: skip
_SILENT = ("id", "tokens", "choice", "fingerprint", "results", "key", "calls", "usage")
_TELLING = ("system", "prompt", "instruct", "tool", "function", "persona", "preamble", "context")


def system_of(value: dict[str, Any]) -> list[Any]:
    """System prompts beside the messages: texts, or lists of parts."""
    return [item for key, item in value.items() if is_system_field(key) and item]


def is_system_field(key: str) -> bool:
    """Whether a field beside the messages holds a system prompt, by its name."""
    return plain_key(key) in _SYSTEM_KEYS


def unread_beside(value: dict[str, Any], said: str) -> Iterator[str]:
    """Fields beside the messages by whose names their model saw them, and that no form reads.

    `said` is what the messages say: a field that repeats some of it is no loss. Where an auditor
    played the user, the persona is the auditor's.
    """
    hidden = {"persona"} if "auditor_model" in value else set()
    for key, item in value.items():
        if (name := plain_key(key)) in hidden:
            continue
        is_telling = any(word in name for word in _TELLING) and not name.endswith(_SILENT)
        is_read = name in _SYSTEM_KEYS or (isinstance(item, str) and item.strip() in said)
        if is_telling and isinstance(item, str | list | dict) and item and not is_read:
            yield f"field {key!r} beside the messages left out"


def plain_key(key: str) -> str:
    """A field's name without case and marks: `threadId`, `Thread ID` and `thread_id` are one."""
    return "".join(letter for letter in key.lower() if letter.isalnum())
