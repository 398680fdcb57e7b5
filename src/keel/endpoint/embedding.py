"""Embeddings of texts from an OpenAI-compatible address."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keel.endpoint.client import Endpoint
from keel.endpoint.faults import read_fault
from keel.errors import EndpointError, MissingExtraError
from keel.settings import EndpointLimits

_AT_ONCE = 64
"""Texts in one request: every service known takes as many."""


def embed_at_endpoint(
    endpoint: Endpoint, texts: Sequence[str], limits: EndpointLimits = EndpointLimits()
) -> NDArray[np.float64]:
    """The embedding of each text, a row each, as the endpoint gives them.

    Requests are retried as the limits say. Raises EndpointError where the endpoint is down or
    refuses, or gives other than a vector of numbers for each text; UsageError without a needed key.
    """
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError(
            f"asking a model behind an address needs {error.name}, which is not installed; "
            "pip install 'keel-llm[evaluate]'"
        ) from error
    rows: list[list[float]] = []
    with openai.OpenAI(
        api_key=endpoint.key(),
        base_url=endpoint.address,
        timeout=limits.timeout_s,
        max_retries=limits.attempts - 1,
    ) as client:
        for start in range(0, len(texts), _AT_ONCE):
            batch = list(texts[start : start + _AT_ONCE])
            try:
                # As numbers: not every server writes base64, which is the client's default.
                reply = client.embeddings.create(
                    model=endpoint.model, input=batch, encoding_format="float"
                )
            except Exception as error:
                raise read_fault(
                    error,
                    str(endpoint),
                    has_answered=bool(rows),
                    longest_retry_after_s=limits.longest_retry_after_s,
                ) from error
            ordered = sorted(reply.data or (), key=lambda each: each.index)
            if [each.index for each in ordered] != list(range(len(batch))):
                raise EndpointError(
                    f"{endpoint} gave {len(ordered)} embeddings for {len(batch)} texts, expected "
                    "one for each; is it an embedding model?"
                )
            rows += [each.embedding for each in ordered]
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
