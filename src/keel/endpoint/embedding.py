"""Embeddings of texts from an OpenAI-compatible address."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keel.endpoint.client import Endpoint, EndpointClient
from keel.endpoint.faults import NoAnswerError, read_fault
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
    import openai

    endpoint, limits = client.endpoint, client.limits
    most = Tokens(sum(map(estimate_tokens, batch)))
    time.sleep(client.pace.next_wait_s())
    client.spending.reserve(most, Event())
    used, is_estimated = most, True  # a lost reply may cost its all
    try:
        with openai.OpenAI(
            api_key=endpoint.key(),
            base_url=endpoint.address,
            timeout=limits.timeout_s,
            max_retries=0,
        ) as connection:
            # As numbers: not every server writes base64, which is the client's default.
            reply = connection.embeddings.create(
                model=endpoint.model, input=batch, encoding_format="float"
            )
        counted = getattr(reply.usage, "prompt_tokens", None)
        if isinstance(counted, int):
            used, is_estimated = Tokens(counted), False
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
    ordered = sorted(reply.data or (), key=lambda each: each.index)
    if [each.index for each in ordered] != list(range(len(batch))):
        raise EndpointError(
            f"{endpoint} gave {len(ordered)} embeddings for {len(batch)} texts, expected one for "
            "each; is it an embedding model?"
        )
    client.has_answered = True
    rows: list[Any] = [each.embedding for each in ordered]  # whatever the endpoint sent
    return rows


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
