"""A language model behind an OpenAI-compatible address, as something to be asked.

Knows nothing of roles. The key comes from the environment, never from an argument.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from keel.errors import EndpointError, MissingExtraError, UsageError
from keel.prompts.generating import Ask
from keel.types import Message

KEY_VARIABLE = "OPENAI_API_KEY"

_NO_KEY = "none"
"""What a server is told that was named by its address and asks for no key."""


@contextmanager
def open_endpoint(
    model: str, *, base_url: str | None = None, timeout_s: float = 300.0
) -> Iterator[Ask]:
    """What asks `model` at an address; without one, at the client's own.

    Raises MissingExtraError without the extra, UsageError where a key is needed and not set, and,
    when asked, EndpointError for whatever the other side refuses or leaves unanswered.
    """
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError(
            "asking a model behind an address needs openai, which is not installed; "
            "pip install 'keel-llm[evaluate]'"
        ) from error
    key = os.environ.get(KEY_VARIABLE)
    if key is None and base_url is None:
        raise UsageError(f"{KEY_VARIABLE} is not set; export it, or give a server's address")
    where = base_url or "the client's own address"
    with openai.OpenAI(api_key=key or _NO_KEY, base_url=base_url, timeout=timeout_s) as client:

        def ask(messages: Sequence[Message]) -> str:
            said = [{"role": m.speaker, "content": m.content} for m in messages]
            try:
                answer = client.chat.completions.create(model=model, messages=said)
            except openai.OpenAIError as error:
                raise EndpointError(
                    f"{model!r} at {where} did not answer: {error}; check address, key "
                    f"({KEY_VARIABLE}) and the model's name"
                ) from error
            choices = getattr(answer, "choices", None)  # a page of HTML comes back as a string
            text = choices[0].message.content if choices else None
            if not text:
                raise EndpointError(f"{model!r} at {where} answered nothing; try another model")
            return str(text)

        yield ask
