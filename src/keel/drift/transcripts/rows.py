"""Rows that hold a message each, of tables, JSON Lines, JSON and Parquet, as whole conversations.

Which conversation a row belongs to stands in a column that has a few usual names. Rows may stand
between those of other conversations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from keel.drift.transcripts.files import NODE_KEYS, Located
from keel.drift.transcripts.forms import is_system_field, outlines_of, plain_key, unread_beside
from keel.drift.transcripts.messages import SPEAKER_KEYS, TEXT_KEYS, is_role, kind_of
from keel.errors import UsageError

_CONVERSATION_KEYS = (
    *("conversationid", "conversation", "conversationuuid", "conversationhash", "convid"),
    *("dialogueid", "dialogid", "threadid", "thread", "sessionid", "session", "chatid", "chat"),
)
_ORDER_KEYS = (
    *("turn", "turnindex", "turnid", "turnnumber", "messageindex", "messagenumber", "position"),
    *("order", "index", "sequence", "seq"),
)
_CALLS = ("tool_calls", "function_call")


def group_rows(location: str, values: Iterable[Located]) -> Iterator[Located]:
    """Messages of one conversation as one value, after all values that are no single message.

    A list of messages is taken apart where they name their conversations. A row without the name,
    or with one that is no text or number, becomes an error. A message that names none is left as it
    is among conversations.
    """
    rows: list[Located] = []
    are_alone = True
    for each in values:
        if listed := _listed(each.value):
            rows += [
                Located(f"{each.location} message {number}", row)
                for number, row in enumerate(listed, 1)
            ]
        elif _is_row(each.value):
            rows.append(each)
        else:
            are_alone = are_alone and each.error is not None
            yield each
    is_known = any(is_role(_role(row.value)) for row in rows)
    if is_known and (are_alone or _conversation_key([row.value for row in rows])):
        yield from _conversations(location, rows)
    else:
        yield from rows


def _listed(value: Any) -> list[dict[str, Any]]:
    """The rows in a list, or among an object's `messages`, of several conversations; else none."""
    beside, listed = {}, value
    if isinstance(value, dict):
        beside = {key: item for key, item in value.items() if key != "messages"}
        listed = value.get("messages")
    if not (isinstance(listed, list) and listed and all(map(_is_row, listed))):
        return []
    key = _conversation_key(listed)
    if key is None or (beside and len({str(row.get(key)) for row in listed}) == 1):
        return []
    return [{**beside, **row} for row in listed]


def _is_row(value: Any) -> bool:
    """Whether an object is one message, and not a conversation that a form reads."""
    if not isinstance(value, dict) or value.keys() >= NODE_KEYS:
        return False
    has_text = any(key in value for key in (*TEXT_KEYS, *_CALLS))
    if not (has_text and isinstance(_role(value), str)):
        return False
    names = {key for key in value if plain_key(key) in _CONVERSATION_KEYS}
    rest = {k: v for k, v in value.items() if k not in names or isinstance(v, dict | list)}
    try:
        return not outlines_of(rest)
    except (UsageError, KeyError, TypeError, AttributeError, IndexError, ValueError):
        return False  # whoever reads it says what is wrong


def _role(row: dict[str, Any]) -> Any:
    role = next((row[key] for key in (*SPEAKER_KEYS, "type") if key in row), None)
    return role.get("role") if isinstance(role, dict) else role


def _conversation_key(rows: Sequence[dict[str, Any]]) -> str | None:
    """The column that names the conversations; `id` only where it does not number the messages."""
    if key := _column(rows, _CONVERSATION_KEYS):
        return key
    key = _column(rows, ("id",))
    names = [str(row[key]) for row in rows if key in row]
    return key if len(rows) == 1 or len({*names}) < len(names) else None


def _column(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str | None:
    """The first of some names that a column has, however it is written: threadId, Thread ID."""
    columns = {plain_key(key): key for row in rows for key in row}
    return next((columns[name] for name in names if name in columns), None)


def _conversations(location: str, rows: Sequence[Located]) -> Iterator[Located]:
    messages = [row.value for row in rows]
    key = _conversation_key(messages)
    if key is None:
        yield Located(location, _conversation(messages))
        return
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name = row.value.get(key)
        if name is None or name != name or not str(name).strip():  # NaN is not itself
            fault = f"no {key}, expected one as other rows have; fill it in"
        elif isinstance(name, bool) or not isinstance(name, str | int | float):
            fault = f"{kind_of(name)} as {key}, expected text or a number; mend it"
        else:
            text = str(int(name) if isinstance(name, float) and name.is_integer() else name)
            groups.setdefault(text.strip(), []).append(row.value)
            continue
        yield Located(row.location, error=UsageError(f"{row.location} has {fault}"))
    for name, own in groups.items():
        value = {**_conversation(own), "conversation_id": name}
        yield Located(f"{location} conversation {name}", value)


def _conversation(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Messages in order, with what stands beside them in their rows."""
    order = _column(rows, _ORDER_KEYS)
    numbers = [_number(row.get(order)) for row in rows] if order else [math.nan]
    if not any(map(math.isnan, numbers)):
        ranked = sorted(zip(numbers, rows, strict=True), key=lambda pair: pair[0])
        rows = [row for _, row in ranked]
    beside: dict[str, Any] = {}
    for row in rows:
        own = {key: item for key, item in row.items() if key not in (*TEXT_KEYS, *_CALLS)}
        for key in ("domain", "metadata", *_unread(own)):
            beside[key] = beside.get(key) or own.get(key)
    for key in {key: None for row in rows for key in row if is_system_field(key)}:
        texts = dict.fromkeys(row[key] for row in rows if isinstance(row.get(key), str))
        beside[key] = "\n\n".join(filter(None, texts))
    return {**beside, "messages": list(rows)}


def _unread(row: dict[str, Any]) -> list[str]:
    """The fields of a row that the model saw, and that are no message."""
    return [key for key in row if [*unread_beside({key: row[key]}, "")]]


def _number(value: Any) -> float:
    """A cell's number; NaN where it holds none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
