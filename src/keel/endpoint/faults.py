"""Classifies a failed request: send it again, give up this request, or stop asking the endpoint.

Knows the client's errors and what services say in them; does nothing about them.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import Any

from keel.errors import EndpointError

KEY_VARIABLE = "OPENAI_API_KEY"
TRIES_OF_NONSENSE = 3
"""A page of HTML in place of an answer, or nobody there at all, seldom gets better by waiting."""

_PASSING = {408, 409, 425, 429}
_REQUEST_WORDS = re.compile(
    r"context.?(?:length|window)|content.?(?:filter|policy)|too many tokens|prompt is too long"
    r"|maximum.{0,20} tokens|responsible.?ai",
    re.IGNORECASE,
)


class EndpointFaultError(EndpointError):
    """The endpoint refuses everything: the key, the model, or the form of the request."""

    def __init__(
        self,
        message: str,
        *,
        said: str = "",
        status: int | None = None,
        wait_s: float = 0.0,
        tries: int | None = None,
    ) -> None:
        super().__init__(message)
        self.said = said or message
        """What happened, without the endpoint's name and the remedy."""
        self.status = status
        """The HTTP status, where there was one."""
        self.wait_s = wait_s
        """Rest that the endpoint asked for."""
        self.tries = tries
        """How many attempts it is worth, where that is fewer than usual."""


class RequestRefusedError(EndpointFaultError):
    """The endpoint works, and refuses this request for its content or its length."""


class NoAnswerError(EndpointFaultError):
    """No answer came, and sending the request again may help."""


def refusal_of(error: Exception) -> str | None:
    """The endpoint's words where it refused the request, perhaps for a field that can go."""
    is_refused = getattr(error, "status_code", None) in (400, 422)
    return _words(error) if is_refused and not _is_of_request(error) else None


def read_fault(
    error: Exception, endpoint: str, *, has_answered: bool, longest_retry_after_s: float
) -> Exception:
    """An EndpointFaultError that names the endpoint and what to do about the client's error.

    An error that is not the client's comes back as it is.
    """
    import openai

    tries = None if has_answered else TRIES_OF_NONSENSE
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return no_answer(endpoint, "no answer in time", tries=tries)
    if isinstance(error, ConnectionError | openai.APIConnectionError):
        return no_answer(endpoint, f"connection failed: {error.__cause__ or error}", tries=tries)
    if not isinstance(error, openai.APIStatusError):
        is_the_clients = isinstance(error, openai.APIError)
        return no_answer(endpoint, str(error), tries=TRIES_OF_NONSENSE) if is_the_clients else error
    status = error.status_code
    body = error.body if isinstance(error.body, dict) else {}
    text = str(body.get("message") or body.get("detail") or error.body or error.message)
    said = " ".join(text.split())[:300]  # one line
    refused = f"{endpoint} refused ({status}): {said}"
    if _is_of_request(error):
        return RequestRefusedError(refused, said=f"refused ({status}): {said}", status=status)
    is_passing = status in _PASSING or status >= 500
    if not is_passing or "insufficient_quota" in _words(error):
        remedy = f"check address, key ({KEY_VARIABLE}) and the model's name"
        return EndpointFaultError(f"{refused}; {remedy}", status=status)
    wait_s = _retry_after_s(error.response.headers)
    if wait_s > longest_retry_after_s:
        return EndpointFaultError(
            f"{endpoint} asks for {wait_s:.0f} s of rest ({status}), more than "
            f"{longest_retry_after_s:.0f} s; run again then, or raise longest_retry_after_s",
            status=status,
        )
    return no_answer(endpoint, f"status {status}: {said}", wait_s=wait_s)


def no_answer(
    endpoint: str, said: str, *, wait_s: float = 0.0, tries: int | None = None
) -> NoAnswerError:
    """The error of an attempt that may be repeated."""
    message = (
        f"{endpoint} did not answer: {said}; check that it runs and its address, which often "
        f"ends in /v1, the key ({KEY_VARIABLE}) and the model's name"
    )
    return NoAnswerError(message, said=said, wait_s=wait_s, tries=tries)


def _is_of_request(error: Any) -> bool:
    """Whether it was refused for what the messages say, or how long they are."""
    status = error.status_code
    return status == 413 or (status in (400, 422) and bool(_REQUEST_WORDS.search(_words(error))))


def _words(error: Any) -> str:
    """All the endpoint's words, with the names of fields and codes."""
    parts = (error.param, error.code, error.type, error.message)
    return " ".join(str(part) for part in parts if part)


def _retry_after_s(headers: Any) -> float:
    """Seconds that the headers ask for, 0 where they ask for none; as a number or as a date."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit_s)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError):
        return 0.0
