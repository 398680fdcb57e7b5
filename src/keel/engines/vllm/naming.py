"""Where an HTTP request names the setting that is to hold it, and names that would be ignored.

Looks at bodies, JSON and forms alike, at queries and at headers. Knows no settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from email import message_from_bytes
from itertools import takewhile
from typing import Any
from urllib.parse import parse_qsl

from keel.engines.vllm.deployment import CHANGE_MARK, KEY
from keel.errors import UsageError

PROBE_HEADER = "x-keel-probe"
CANDIDATE_HEADER = "x-keel-candidate"
"""Of a probe: held by the floors that are to be tried."""
_ARGUMENTS = "vllm_xargs"
CONVERSATION_HEADER = "x-keel-conversation"
CONVERSATION_FIELD = "keel_conversation"
"""The same among the arguments: which conversation a request goes on with, for an alarm."""
PROVISIONAL_HEADER = "x-keel-provisional"
PROVISIONAL_FIELD = "keel_provisional"
"""Whether a streamed answer is to be judged before it has ended, too."""
_HEADERS = (PROBE_HEADER, CANDIDATE_HEADER, CONVERSATION_HEADER, PROVISIONAL_HEADER)
_HOMES = ((_ARGUMENTS, KEY), ("sampling_params", "extra_args", KEY))
"""Where a body may name its setting; the second is that of the endpoint of tokens."""
_CONTENT = {
    *("messages", "prompt", "input", "tools", "tool_choice", "response_format", "text"),
    *("structured_outputs", "guided_json", "output_config", "output_format", "logit_bias"),
    *("documents", "query", "items"),
}
"""Fields that hold a user's own words and schemas: nobody names a setting there."""
_LIKE_KEY = re.compile(r"k+e+l+((setting|floor|cap)\w*)?|keel\w*")
_OTHER_WORDS = re.compile(r"(setting|cap|floor)s?|capp(ing|ed)|activationcapping|steer(ing)?")
"""What else one may call a setting, where nothing but arguments stands."""
_ARGUMENTS_STAND: tuple[tuple[str, ...], ...] = (
    *((), (_ARGUMENTS,), ("extra_args",)),
    *(("sampling_params",), ("sampling_params", "extra_args")),
)
"""Paths at which the next key is an argument of vLLM's, no word of a user's."""
_FORM, _PARTS = "application/x-www-form-urlencoded", "multipart/form-data"


def named_setting(body: object, served: Sequence[str] = ()) -> str | None:
    """The setting that a request's body names; None where it names none.

    A model's name that stands among those `served` can carry it, behind the first of them:
    `smollm2:layers_21:26-p50`.
    Raises UsageError for a name where vLLM would ignore it, for a key that looks like ours, and for
    two names that differ.
    """
    names = set[str]()
    for path, value in _mentions(body, ()):
        if path in ((_ARGUMENTS, CONVERSATION_FIELD), (_ARGUMENTS, PROVISIONAL_FIELD)):
            continue
        if path not in _HOMES:
            raise _ignored(".".join(path))
        if value is None:
            continue
        if not isinstance(value, str) or CHANGE_MARK in value:
            raise UsageError(f"{KEY} is {value!r}, expected the name of a setting")
        names.add(value)
    model = body.get("model") if isinstance(body, Mapping) else None
    if isinstance(model, str) and model in served[1:] and model.startswith(f"{served[0]}:"):
        names.add(model.removeprefix(f"{served[0]}:"))
    if len(names) > 1:
        raise UsageError(f"the request names {len(names)} settings, {sorted(names)}; name one")
    return names.pop() if names else None


def check_beside_body(headers: Mapping[str, str], query: str) -> None:
    """Refuse a setting that is named in a header or in the address. Raises UsageError."""
    for name in headers:
        if name not in _HEADERS and _is_like_key(name.removeprefix("x-")):
            raise _ignored(f"the header {name}")
    for key, _ in parse_qsl(query, keep_blank_values=True):
        if any(_is_like_key(part) for part in _path_of(key)):
            raise _ignored(f"{key} in the address")


def parsed(raw: bytes, kind: str) -> object:
    """A body of a content type, JSON or a form; None for what is neither, which vLLM refuses."""
    if kind.lower().startswith((_FORM, _PARTS)):
        return _nested(_fields(raw, kind))
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _ignored(where: str) -> UsageError:
    return UsageError(
        f'{where} would be ignored; name the setting as "{_ARGUMENTS}": {{"{KEY}": "..."}}'
    )


def _mentions(body: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every key of a body that is or looks like ours, with its path and value."""
    if isinstance(body, list):
        for part in body:
            yield from _mentions(part, path)
    if not isinstance(body, Mapping):
        return
    for key, value in body.items():
        here = (*path, str(key))
        if _is_like_key(str(key)) or (path in _ARGUMENTS_STAND and _is_near_key(str(key))):
            yield here, value
        elif key not in _CONTENT:
            yield from _mentions(value, here)


def _is_like_key(key: str) -> bool:
    letters = _letters(key)
    return bool(_LIKE_KEY.fullmatch(letters)) or sorted(letters) == sorted(KEY)


def _is_near_key(key: str) -> bool:
    """Whether a key is one letter away from ours, or another word for a setting."""
    letters = _letters(key)
    begin = _shared(letters, KEY)
    end = _shared(letters[begin:][::-1], KEY[begin:][::-1])
    is_within_a_letter = max(len(letters), len(KEY)) - begin - end <= 1
    return is_within_a_letter or bool(_OTHER_WORDS.fullmatch(letters))


def _shared(left: str, right: str) -> int:
    """How many letters both begin with."""
    pairs = zip(left, right, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _letters(key: str) -> str:
    return re.sub(r"[^a-z]", "", key.lower())


def _fields(raw: bytes, kind: str) -> Iterator[tuple[str, str]]:
    """Names and values of a form's fields; files are left out."""
    if kind.lower().startswith(_FORM):
        yield from parse_qsl(raw.decode(errors="replace"), keep_blank_values=True)
        return
    form = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + raw)
    for part in form.walk():
        name = part.get_param("name", header="content-disposition")
        if isinstance(name, str) and part.get_filename() is None:
            content = part.get_payload(decode=True)
            yield name, content.decode(errors="replace") if isinstance(content, bytes) else ""


def _nested(fields: Iterator[tuple[str, str]]) -> dict[str, Any]:
    """A form as the JSON that it stands for: `a[b]` is b within a, and arguments are JSON."""
    body: dict[str, Any] = {}
    for name, text in fields:
        *above, last = _path_of(name) or [name]
        inner = body
        for part in above:
            inner = inner.setdefault(part, {}) if isinstance(inner.get(part, {}), dict) else {}
        value = parsed(text.encode(), "") if last in (_ARGUMENTS, "sampling_params") else text
        inner[last] = text if value is None else value
    return body


def _path_of(name: str) -> list[str]:
    """The parts of a field's name: `vllm_xargs[keel]` has two."""
    return [part for part in re.split(r"[\[\].]+", name) if part]
