"""Embeddings of texts from an OpenAI-compatible address."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keel.endpoint.client import Endpoint, EndpointClient, body_within
from keel.endpoint.faults import TRIES_OF_NONSENSE, NoAnswerError, no_answer, read_fault
from keel.endpoint.limits import Tokens, estimate_tokens
from keel.errors import EndpointError

TEXTS_AT_ONCE = 64
"""Texts in one request: every service known takes as many."""


def embed_at_endpoint(
    client: EndpointClient,
    texts: Sequence[str],
    on_rows: Callable[[Sequence[str], Sequence[Sequence[float]]], None] | None = None,
) -> NDArray[np.float64]:
    """The embedding of each text, a row each, as the endpoint gives them.

    Each request, retries included, keeps to the pace and the budget of its client; `on_rows` is
    called with the texts of one and their embeddings as they come. Raises EndpointError where the
    endpoint is down or refuses, or gives other than a vector of numbers for each text; BudgetError;
    UsageError without a needed key.
    """
    client.check()
    rows: list[Any] = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        batch = list(texts[start : start + TEXTS_AT_ONCE])
        rows += _embedded(client, batch)
        if on_rows is not None:
            _checked(client.endpoint, rows)
            on_rows(batch, rows[start:])
    return _checked(client.endpoint, rows)


def _embedded(client: EndpointClient, batch: list[str]) -> list[Any]:
    """The embeddings of one request, after as many attempts as the limits allow."""
    limits, wait_s, attempts = client.limits, client.limits.first_wait_s, 0
    while True:
        try:
            return _sent(client, batch)
        except NoAnswerError as fault:
            attempts += 1
            if attempts >= min(fault.tries or limits.attempts, limits.attempts):
                raise
            client.spending.count_retry()
            time.sleep(max(fault.wait_s, wait_s))
            wait_s = min(2 * wait_s, limits.longest_wait_s)


def _sent(client: EndpointClient, batch: list[str]) -> list[Any]:
    """One attempt, counted in the client's spending."""
    endpoint, limits = client.endpoint, client.limits
    most = Tokens(sum(map(estimate_tokens, batch)))
    time.sleep(client.pace.next_wait_s())
    client.spending.reserve(most, Event())
    used, is_estimated = most, True  # a lost reply may cost its all
    try:
        body = _posted(client, batch)
        record = _read_record(body)
        counted = (record or {}).get("usage")
        sent = counted.get("prompt_tokens") if isinstance(counted, dict) else None
        if isinstance(sent, int):
            used, is_estimated = Tokens(sent), False
    except Exception as error:
        if hasattr(error, "status_code"):
            used, is_estimated = Tokens(), False  # a refusal costs nothing
        raise read_fault(
            error,
            str(endpoint),
            has_answered=client.has_answered,
            longest_retry_after_s=limits.longest_retry_after_s,
        ) from error
    finally:
        client.spending.settle(most, used, is_estimated=is_estimated)
    if record is None:
        said = f"no embeddings in {body.decode(errors='replace')[:200]!r}"
        raise no_answer(str(endpoint), said, tries=TRIES_OF_NONSENSE)
    rows = _rows_in_order(record, len(batch))
    if rows is None:
        raise EndpointError(
            f"{endpoint} gave no embedding for each of {len(batch)} texts; does it embed?"
        )
    client.has_answered = True
    return rows


def _posted(client: EndpointClient, batch: list[str]) -> bytes:
    """The body of the reply to one request, all of it within the time of one."""
    import openai

    endpoint, timeout_s = client.endpoint, client.limits.timeout_s
    with openai.OpenAI(
        api_key=endpoint.key(), base_url=endpoint.address, timeout=timeout_s, max_retries=0
    ) as connection:
        # As numbers: not every server writes base64, which is the client's default.
        create = connection.embeddings.with_streaming_response.create
        return body_within(
            timeout_s, create(model=endpoint.model, input=batch, encoding_format="float")
        )


def _read_record(body: bytes) -> dict[str, Any] | None:
    """The JSON object that a body is; None where it is none."""
    try:
        record = json.loads(body)
    except ValueError:  # a page of HTML, nothing
        return None
    return record if isinstance(record, dict) else None


def _rows_in_order(record: Mapping[str, Any], count: int) -> list[Any] | None:
    """The embedding that a reply holds for each text; None where it lacks some."""
    try:
        by_index = {each["index"]: each["embedding"] for each in record["data"]}
        return [by_index[n] for n in range(count)] if len(record["data"]) == count else None
    except (KeyError, TypeError):
        return None


def _checked(endpoint: Endpoint, rows: Sequence[Any]) -> NDArray[np.float64]:
    """The rows as numbers. Raises EndpointError where they are no vectors of one length."""
    try:
        embedded_ND = np.array(rows, np.float64)
        is_good = embedded_ND.ndim == 2 and bool(np.isfinite(embedded_ND).all())
    except (TypeError, ValueError):
        is_good = False
    if not is_good:
        raise EndpointError(
            f"{endpoint} gave embeddings that are no vectors of one length; choose another model"
        )
    return embedded_ND
