"""A chat request, and which of its optional fields an endpoint accepts, learned from refusals.

"OpenAI-compatible" promises the messages and little besides. So a request starts with all that is
wanted, and each field that the endpoint says it cannot take is left out from then on, where the
request allows that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keel.endpoint.limits import Tokens, estimate_tokens
from keel.types import Message

_OLDER, _NEWER = "max_tokens", "max_completion_tokens"
_FORM_WORDS = re.compile(
    r"response.?format|json.?schema|structured.?output|guided|grammar|json.?mode", re.IGNORECASE
)
_VALUE_WORDS = re.compile(r"too (?:large|long|big|high)|at most|exceed|greater than", re.IGNORECASE)
"""Said of a value, not of the field: leaving the field out would be no answer to it."""


@dataclass(frozen=True)
class ChatRequest:
    """Messages to send, and the fields that say how to answer them."""

    messages: Sequence[Message]
    max_tokens: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of OpenAI's, such as `temperature` and `seed`."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Fields that OpenAI does not know."""
    reply_schema: Mapping[str, Any] | None = None
    """The JSON that a reply is to consist of, where the endpoint enforces schemas."""
    schema_note: str = ""
    """Ends the last message; left out, with the schema, where the endpoint enforces none."""
    droppable: frozenset[str] = frozenset()
    """Fields of `sampling` without which the request still makes sense."""

    @property
    def tokens(self) -> int:
        """About how many tokens are sent: one for every four bytes of UTF-8."""
        said = "".join(message.content for message in self.messages)
        schema = self.reply_schema
        return estimate_tokens(said if schema is None else f"{said} {self.schema_note}{schema}")


@dataclass(frozen=True)
class EndpointReply:
    """The reply's text, perhaps empty, and its length."""

    text: str
    is_cut: bool
    """Whether it was cut off at the limit of tokens."""
    counted: Tokens | None
    """Tokens by the endpoint's own account; None where it gave none."""


@dataclass(frozen=True)
class Dialect:
    """The optional fields that an endpoint accepts, narrowed by each refusal."""

    has_schema: bool = True
    token_field: str = _OLDER
    """The older name first: who wants the newer one says so, who does not know it says nothing and
    replies without end."""
    dropped: frozenset[str] = frozenset()

    def fields(self, request: ChatRequest) -> dict[str, Any]:
        """Everything in a request but the model's name."""
        messages = [{"role": m.speaker, "content": m.content} for m in request.messages]
        fields: dict[str, Any] = {"messages": messages}
        if request.max_tokens is not None:
            fields[self.token_field] = request.max_tokens
        fields |= {k: v for k, v in request.sampling.items() if k not in self.dropped}
        if self.has_schema and request.reply_schema is not None:
            messages[-1]["content"] += f" {request.schema_note}"
            form = {"name": "reply", "strict": True, "schema": request.reply_schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": form}
        return fields | ({"extra_body": dict(request.extra_body)} if request.extra_body else {})

    def without(self, refusal: str, request: ChatRequest, *, is_proven: bool) -> Dialect | None:
        """The dialect to try after a refusal in these words; None where they name no field.

        A refusal that names nothing at all, by an endpoint that never answered, is put down to
        the schema of the reply: it is what endpoints most often lack.
        """
        if _VALUE_WORDS.search(refusal):
            return None
        is_structured = self.has_schema and request.reply_schema is not None
        if is_structured and _FORM_WORDS.search(refusal):
            return replace(self, has_schema=False)
        if self.token_field == _OLDER and re.search(rf"\b{_OLDER}\b", refusal):
            return replace(self, token_field=_NEWER)
        for name in sorted(request.droppable - self.dropped):
            if name in request.sampling and re.search(rf"\b{name}\b", refusal):
                return replace(self, dropped=self.dropped | {name})
        is_blind = is_structured and not is_proven
        return replace(self, has_schema=False) if is_blind else None
