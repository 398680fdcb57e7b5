"""Simulated users whose messages a model writes: its prompt, and the check of what it writes.

A model that plays a user slips: it answers instead of asking, repeats what was said, lists, goes on
without end. Such a message is refused by rules that need no model, asked for anew with another
seed, and in the end replaced by a line that was written beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from keel.endpoint import ChatRequest, EndpointClient
from keel.endpoint import EndpointFaultError as Fault
from keel.engines import Engine
from keel.seeds import seed_of
from keel.studies.assistant_speech import begins_as_assistant, speaks_as_assistant
from keel.types import AuditedMessage, Conversation, Message, Prompt, Sampling

STOP_WORD = "<END_CONVERSATION>"
"""By which an auditor ends a conversation, not before its fourth message."""
FIRST_END = 3
ATTEMPTS = 3
_LONGEST_WORDS = 60
_SENTENCES = 2
_MAX_REPLY_TOKENS = 512
MESSAGE_TOKENS = 2 * _LONGEST_WORDS
"""Room for a message that a model on one of Keel's engines writes."""
_TEMPERATURE = 0.7
_TALK_DOMAINS = ("therapy", "philosophy")

_TASK_RULES = (
    "Write this person's next message to an AI system that helps them. At most two sentences. Ask "
    "for something, or say what to change; take up what was last said. No greeting, no thanks, no "
    "praise, no summary of the reply, no asterisks, no list. Never answer as the AI system."
)
_TALK_RULES = (
    "Write this person's next message to an AI system that they talk with. At most two sentences, "
    "personal and direct: what they feel or think, or a question that goes deeper into what was "
    "last said. No greeting, no thanks, no asterisks, no list. Never answer as the AI system."
)
_ENDING = f"When this person has no more to say, write {STOP_WORD} and nothing else."
_BEGIN = "Hello! What is on your mind?"
_USERS = "user|human|me|nutzer|benutzer|utilisateur|usuario|пользователь|用户|用戶|使用者|ユーザー"
_NAMED = re.compile(
    rf"^[\s*_]*(?:(?:{_USERS})[*_]*\s*[:：][*_]*"
    r"|[A-Z][\w'’-]*(?: [A-Z][\w'’-]*)?[*_]*\s*:[*_]*\s)\s*",
    re.IGNORECASE,
)
_NEXT_SPEAKER = re.compile(
    rf"\n\s*\n|\n\s*(?:assistante?|asistente|assistent|ассистент|助手|アシスタント|ai|ki|ia|model|{_USERS})"
    r"\s*[:：]|<\|",
    re.IGNORECASE,
)
_THOUGHT = re.compile(r"^.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
"""What a model that reasons writes first, where its server leaves it in."""
_THINKS_ON = re.compile(r"^\s*<think(?:ing)?>", re.IGNORECASE)
"""Thinking that the limit of tokens cut off, before any message."""
_STOPPED = re.compile(rf"^\W*{STOP_WORD.strip('<>').replace('_', '[ _]')}\W*$", re.IGNORECASE)
"""The stop word as models misspell it: it would be said to the model under study."""
_NO_WORDS = re.compile(
    r"^\s*(?:<!doctype\b|<\?xml\b|<[a-z]\w*[^>]*>.*>\s*$|\{\s*\".*\}\s*$|\[object \w+\]\s*$"
    r"|(?-i:null|None|undefined|NaN|nan)\s*$)",
    re.IGNORECASE | re.DOTALL,
)
"""A page or a value where a person's words should be: a proxy's, or a program's."""
_REFUSED = re.compile(
    r"\bi(?:'m| am)? (?:can't|cannot|can not|won't|will not|am not able to|not able to|unable to"
    r"|must decline to) (?:(?:fulfill|comply with|complete) (?:this|that|your) request"
    r"|(?:continue|engage in|participate in) (?:with )?(?:this|that) (?:conversation|role-?play"
    r"|scenario|request)|(?:play|take on|assume|adopt) (?:this|that|the) (?:role|person|persona"
    r"|character)|pretend to be (?:an?|this|that|the) (?:(?:real|human) )?(?:person|human|user)"
    r"|role-?play(?: as [^.!?]*)?|impersonate [^.!?]*)\s*(?:[.!,;]|$)",
    re.IGNORECASE,
)
"""A model that will not play a person says so of the task it was given."""
_SAME_LETTER = re.compile(r"(\w)\1{9}")
_LISTED = re.compile(
    r"^\s*(?:[-*•◦▪●]|\d+[.)．）])\s+|^\s*(?:・|\d+、|[①-⑳])|```|^\s*[–—]\s.*\n\s*[–—]\s",
    re.MULTILINE,
)
"""Two dashes of speech are a list; one begins what somebody says in many languages."""
_SENTENCE = re.compile(r".+?(?:[.!?…؟।]+[\"'”’»)]*(?=\s|$)|[。！？]+[」』”’）]*|$)", re.DOTALL)
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts that write no space between words: Thai and its neighbours, Japanese, Chinese."""
_WORD = re.compile(rf"([{_UNSPACED}]+)|[^\W{_UNSPACED}]+(?:['’][^\W{_UNSPACED}]+)*")


@dataclass(frozen=True)
class AuditorCase:
    """A message to be written: whose, about what, and what was said so far."""

    conversation: str
    turn: int
    domain: str
    description: str
    topic: str
    said: tuple[Message, ...]
    """User and assistant in turn; empty before the first message."""
    seed: int
    fallback: str
    """The line that is said where no attempt will do."""
    fallback_source: str

    @property
    def messages(self) -> tuple[Message, ...]:
        """What the auditor reads: the roles swapped, so that its own messages are its answers."""
        rules = _TALK_RULES if self.domain in _TALK_DOMAINS else _TASK_RULES
        person = f"You play a person. {self.description}\nThe subject: {self.topic}."
        system = Message("system", f"{person}\n\n{rules} {_ENDING}")
        swapped = [
            Message("assistant" if message.speaker == "user" else "user", message.content)
            for message in self.said
        ]
        return (system, Message("user", _BEGIN), *swapped)

    def attempt_seed(self, attempt: int) -> int:
        """Below 2^31, as endpoints take them; another one for each attempt."""
        return seed_of(self.seed, "auditor", attempt, bits=31)


@runtime_checkable
class Auditor(Protocol):
    """Writes users' messages."""

    @property
    def name(self) -> str:
        """Which model, for the record."""

    def write(self, cases: Sequence[AuditorCase]) -> Iterator[AuditedMessage]:
        """A message for each case as soon as it is known, in any order."""


@dataclass(frozen=True)
class EndpointAuditor:
    """A model behind an OpenAI-compatible address."""

    client: EndpointClient

    @property
    def name(self) -> str:
        """`openai:MODEL@HOST`."""
        return f"openai:{self.client.endpoint.model}@{self.client.endpoint.host}"

    def write(self, cases: Sequence[AuditorCase]) -> Iterator[AuditedMessage]:
        """The next message of each case, asked of the endpoint.

        Raises EndpointError where the endpoint refuses everything or is down, BudgetError where the
        budget is used up; what came before is handed out first.
        """
        with self.client.connect() as connection:

            def say(case: AuditorCase, attempt: int) -> str:
                return connection.ask(
                    ChatRequest(
                        case.messages,
                        max_tokens=min(_MAX_REPLY_TOKENS, self.client.limits.max_reply_tokens),
                        sampling={
                            "temperature": _TEMPERATURE,
                            "seed": case.attempt_seed(attempt),
                        },
                        droppable=frozenset({"temperature", "seed"}),
                    )
                ).text

            def unanswered(case: AuditorCase, fault: Fault) -> AuditedMessage:
                return _fallen_back(case, 1, ["no reply"])

            yield from connection.ask_all(cases, lambda case: audited(case, say), unanswered)


@dataclass(frozen=True)
class EngineAuditor:
    """A model on one of Keel's engines; all cases are written together."""

    engine: Engine

    @property
    def name(self) -> str:
        """`local:MODEL`."""
        return f"local:{self.engine.identity.model_id}"

    def write(self, cases: Sequence[AuditorCase]) -> Iterator[AuditedMessage]:
        """All of them once the last attempt is over."""
        sampling = Sampling(max_new_tokens=MESSAGE_TOKENS, temperature=_TEMPERATURE)
        written: dict[int, list[str]] = {n: [] for n in range(len(cases))}
        left = list(written)
        for attempt in range(ATTEMPTS):
            prompts = [Prompt(str(n), Conversation(cases[n].messages)) for n in left]
            seeds = [cases[n].attempt_seed(attempt) for n in left]
            for completion in self.engine.generate(prompts, sampling, seed=seeds):
                written[left[completion.index]].append(completion.text)
            left = [n for n in left if read_message(cases[n], written[n][-1]).faults]
            if not left:
                break
        for n, case in enumerate(cases):
            yield audited(case, lambda case, attempt, texts=written[n]: texts[attempt])  # type: ignore[misc]


def audited(case: AuditorCase, say: Callable[[AuditorCase, int], str]) -> AuditedMessage:
    """The first attempt without a fault, else the scripted line; with the attempts refused."""
    refused: list[str] = []
    for attempt in range(ATTEMPTS):
        judged = read_message(case, say(case, attempt))
        if not judged.faults:
            return AuditedMessage(
                case.conversation,
                judged.text,
                "auditor",
                attempt + 1,
                tuple(refused),
                is_end=judged.is_end,
            )
        refused += judged.faults
    return _fallen_back(case, ATTEMPTS, refused)


def _fallen_back(case: AuditorCase, attempts: int, faults: Sequence[str]) -> AuditedMessage:
    source = case.fallback_source.replace("script:", "fallback:")
    return AuditedMessage(case.conversation, case.fallback, source, attempts, tuple(faults))


@dataclass(frozen=True)
class ReadMessage:
    """An auditor's message, cleaned, and what is wrong with it."""

    text: str
    faults: tuple[str, ...] = ()
    is_end: bool = field(default=False)


def read_message(case: AuditorCase, written: str) -> ReadMessage:
    """The message without name, quotes and what follows it, cut to two sentences; and its faults.

    Faults: empty, no message (a page, a value), too long, list, speaks as the assistant, refuses
    to play, echoes the last answer, repeats an earlier message, loops, other script, ends too
    early.
    """
    if STOP_WORD in written or _STOPPED.match(written):
        is_late = case.turn >= FIRST_END
        return ReadMessage("", () if is_late else ("ends too early",), is_end=is_late)
    written = _THOUGHT.sub("", written, count=1).strip()
    text = _NAMED.sub("", written, count=1)
    text = _NEXT_SPEAKER.split(text, maxsplit=1)[0].strip().strip('"“”').strip()
    faults = list(_faults(case, text)) if _WORD.search(text) else ["empty"]
    if _THINKS_ON.match(written):
        faults = ["empty"]
    elif begins_as_assistant(written):
        faults = list(dict.fromkeys((*faults, "speaks as the assistant")))
    ends = [part.end() for part in _SENTENCE.finditer(text) if part.group().strip()]
    kept = text[: ends[:_SENTENCES][-1]] if ends else ""
    return ReadMessage(" ".join(kept.split()), tuple(faults))


def _faults(case: AuditorCase, text: str) -> Iterator[str]:
    words = _words(text)
    own = [message.content for message in case.said if message.speaker == "user"]
    heard = case.messages[-1].content
    if _NO_WORDS.match(text):
        yield "no message"
    if _REFUSED.search(text.replace("’", "'")):
        yield "refuses to play"
    if _length(text) > _LONGEST_WORDS:
        yield "too long"
    if _LISTED.search(text):
        yield "list"
    if speaks_as_assistant(text):
        yield "speaks as the assistant"
    if words == _words(heard) or _shared(words, _words(heard)) > 0.3:
        yield "echoes"
    if any(_shared(words, _words(earlier)) > 0.5 or text == earlier for earlier in own):
        yield "repeats"
    distinct = len(set(words)) / max(1, len(words))
    most_distinct = 0.5 if len(words) > 12 else 0.34 if len(words) > 5 else 0
    if distinct < most_distinct or _SAME_LETTER.search(text):
        yield "loops"
    if _foreign(text) > 0.3 >= _foreign(case.description):
        yield "other script"


def _words(text: str) -> list[str]:
    """Its words; of scripts without spaces every two characters in a row."""
    words = []
    for match in _WORD.finditer(text.lower()):
        word = match.group()
        pairs = max(1, len(word) - 1)
        words += [word[n : n + 2] for n in range(pairs)] if match[1] else [word]
    return words


def _length(text: str) -> float:
    """In words, of which two characters make one in scripts without spaces."""
    return sum(len(each[1]) / 2 if each[1] else 1 for each in _WORD.finditer(text))


def _shared(words: Sequence[str], others: Sequence[str]) -> float:
    """Share of the runs of four words that stand in the other text, too."""

    def runs(parts: Sequence[str]) -> set[tuple[str, ...]]:
        return {tuple(parts[n : n + 4]) for n in range(len(parts) - 3)}

    own = runs(words)
    return len(own & runs(others)) / len(own) if own else 0.0


def _foreign(text: str) -> float:
    """Share of letters that are not Latin."""
    letters = [character for character in text if character.isalpha()]
    return sum(ord(character) > 0x24F for character in letters) / max(1, len(letters))
