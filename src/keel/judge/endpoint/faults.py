"""What a failed request means: ask again, give this case up, or stop.

Knows the client's errors and what services say in them; does nothing about them.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from json import JSONDecodeError

import openai

from keel.errors import EndpointError
from keel.judge.endpoint.acquaintance import Endpoint
from keel.settings import EndpointLimits

_PASSING = {408, 409, 425, 429}
_TRIES_OF_NONSENSE = 3
"""A page of HTML in place of an answer, or nobody there at all, seldom gets better by waiting."""
_CASE_WORDS = re.compile(
    r"context.?(?:length|window)|content.?(?:filter|policy)|too many tokens|prompt is too long"
    r"|maximum.{0,20} tokens|responsible.?ai",
    re.IGNORECASE,
)


class TryAgainError(Exception):
    """A fault that may pass."""

    def __init__(self, said: str, *, wait_s: float = 0.0, tries: int | None = None) -> None:
        super().__init__(said)
        self.wait_s = wait_s
        """Rest that the endpoint asked for."""
        self.tries = tries
        """How many attempts it is worth, where that is fewer than usual."""


class CaseRefusedError(Exception):
    """The endpoint is well and will not answer this very case."""


def refusal_of(error: Exception) -> str | None:
    """The endpoint's words where it refused the request, perhaps for one of its fields."""
    is_refused = isinstance(error, openai.APIStatusError) and error.status_code in (400, 422)
    return _said(error) if is_refused and not _is_of_case(error) else None


def fault_of(
    error: Exception, endpoint: Endpoint, limits: EndpointLimits, *, has_answered: bool
) -> Exception:
    """TryAgainError, CaseRefusedError or EndpointError; any other error comes back as it is."""
    tries = None if has_answered else _TRIES_OF_NONSENSE
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return TryAgainError(f"no answer within {limits.timeout_s:g} s", tries=tries)
    if isinstance(error, openai.APIConnectionError):
        return TryAgainError(f"connection failed: {error.__cause__ or error}", tries=tries)
    if isinstance(error, openai.APIStatusError):
        return _fault_of_status(error, endpoint, limits)
    if isinstance(error, JSONDecodeError | UnicodeDecodeError | openai.APIError):
        return TryAgainError(f"the reply is no JSON: {error}", tries=_TRIES_OF_NONSENSE)
    return error


def no_completion(reply: object) -> TryAgainError:
    """The fault of an answer that came with status 200 and holds no message."""
    return TryAgainError(f"no chat completion in {str(reply)[:200]!r}", tries=_TRIES_OF_NONSENSE)


def _fault_of_status(
    error: openai.APIStatusError, endpoint: Endpoint, limits: EndpointLimits
) -> Exception:
    status, said = error.status_code, _message(error)
    if _is_of_case(error):
        return CaseRefusedError(f"refused ({status}): {said}")
    is_passing = status in _PASSING or status >= 500
    if not is_passing or "insufficient_quota" in _said(error):
        return EndpointError(
            f"{endpoint} refused ({status}): {said}; check address, key "
            f"({endpoint.key_variable}) and the model's name"
        )
    wait_s = _retry_after_s(error)
    if wait_s > limits.longest_retry_after_s:
        return EndpointError(
            f"{endpoint} asks for {wait_s:.0f} s of rest ({status}), more than "
            f"{limits.longest_retry_after_s:.0f} s; run again then, or raise longest_retry_after_s"
        )
    return TryAgainError(f"status {status}: {said}", wait_s=wait_s)


def _is_of_case(error: openai.APIStatusError) -> bool:
    """Whether it was refused for what the case says, or how long it is."""
    is_refused = error.status_code in (400, 422) and _CASE_WORDS.search(_said(error))
    return error.status_code == 413 or bool(is_refused)


def _said(error: openai.APIStatusError) -> str:
    """All the endpoint's words, with the names of fields and codes."""
    parts = (error.param, error.code, error.type, error.message)
    return " ".join(str(part) for part in parts if part)


def _message(error: openai.APIStatusError) -> str:
    """The endpoint's message on one line."""
    body = error.body if isinstance(error.body, dict) else {}
    text = str(body.get("message") or body.get("detail") or error.body or error.message)
    return " ".join(text.split())[:300]


def _retry_after_s(error: openai.APIStatusError) -> float:
    """Seconds that the headers ask for, 0 where they ask for none; as a number or as a date."""
    headers = error.response.headers
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit_s)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError):
        return 0.0
