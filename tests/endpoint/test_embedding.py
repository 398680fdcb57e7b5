"""Embeddings from a real server that misbehaves as it is told to."""

from __future__ import annotations

import json

import numpy as np
import pytest

from keel.endpoint import Endpoint, EndpointClient, embed_at_endpoint
from keel.errors import BudgetError, EndpointError
from keel.settings import EndpointLimits
from tests.endpoint.server import Answer, Asked, refuse, serving

LIMITS = EndpointLimits(timeout_s=2, attempts=3, first_wait_s=0.01)


def client(served, limits: EndpointLimits = LIMITS) -> EndpointClient:
    return EndpointClient(Endpoint("m", served.address), limits)


TEXTS = [f"text {n}" for n in range(70)]


def embeddings(rows, order=None) -> Answer:
    data = [{"object": "embedding", "index": n, "embedding": row} for n, row in enumerate(rows)]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    body = {"object": "list", "model": "m", "usage": usage, "data": list((order or list)(data))}
    return Answer(json.dumps(body).encode())


def lengths(_number: int, asked: Asked) -> Answer:
    return embeddings([[len(text), 1.0] for text in asked.body["input"]])


def test_each_text_gets_its_vector_whatever_the_order_of_the_reply():
    def backwards(_number: int, asked: Asked) -> Answer:
        return embeddings([[float(t.split()[1])] for t in asked.body["input"]], reversed)

    with serving(backwards) as served:
        rows_ND = embed_at_endpoint(client(served, LIMITS), TEXTS)
    assert np.array_equal(rows_ND[:, 0], np.arange(70))
    assert [len(asked.body["input"]) for asked in served.asked] == [64, 6]


def test_a_refused_pace_is_waited_for():
    def slow(number: int, asked: Asked) -> Answer:
        return refuse(429) if number == 0 else lengths(number, asked)

    with serving(slow) as served:
        rows_ND = embed_at_endpoint(client(served, LIMITS), TEXTS[:2])
    assert rows_ND.shape == (2, 2)


@pytest.mark.parametrize(
    "behaviour",
    [
        lambda *_: refuse(401),
        lambda *_: embeddings([[1.0]]),
        lambda _n, asked: embeddings([[1.0] * (1 + k) for k in range(len(asked.body["input"]))]),
        lambda _n, asked: embeddings([[None] for _ in asked.body["input"]]),
        lambda *_: Answer(b""),
        lambda *_: Answer(b"<html>busy</html>", content_type="text/html"),
        lambda *_: Answer(b'"busy"'),
        lambda *_: Answer(b'{"data": null}'),
        lambda *_: Answer(b'{"data": ["a", "b", "c"], "usage": 3}'),
        lambda _n, asked: Answer(json.dumps(asked.body).encode()),
    ],
    ids=[
        "refuses",
        "too few",
        "of several lengths",
        "no numbers",
        "nothing",
        "a page",
        "a text",
        "null",
        "no records",
        "echoes",
    ],
)
def test_what_is_no_embedding_of_each_text_is_an_error_that_names_the_endpoint(behaviour):
    with serving(behaviour) as served, pytest.raises(EndpointError, match="'m' at http"):
        embed_at_endpoint(client(served, LIMITS), TEXTS[:3])


def test_an_endpoint_that_hangs_is_given_up():
    with serving(lambda *_: Answer(b"{}", after_s=30)) as served:
        quick = EndpointLimits(timeout_s=0.3, attempts=1)
        with pytest.raises(EndpointError):
            embed_at_endpoint(client(served, quick), TEXTS[:1])


def test_an_endpoint_that_drips_is_given_up():
    """A byte every .1 s: no silence is as long as the limit, the reply would take 3 s."""
    with serving(lambda *_: Answer(b" " * 30, drip_s=0.1)) as served:
        quick = EndpointLimits(timeout_s=0.3, attempts=1)
        with pytest.raises(EndpointError, match="no answer in time"):
            embed_at_endpoint(client(served, quick), TEXTS[:1])


def test_requests_keep_to_the_pace_retries_included():
    """Three at 120 a minute, two slots of the first second's worth: the third waits for its own."""

    def slow(number: int, asked: Asked) -> Answer:
        return refuse(503) if number == 0 else lengths(number, asked)

    limits = EndpointLimits(timeout_s=2, attempts=3, first_wait_s=0, requests_per_minute=120)
    with serving(slow) as served:
        waited: list[float] = []
        paced = client(served, limits)
        reserve = paced.pace.next_wait_s
        paced.pace.next_wait_s = lambda: waited.append(reserve()) or waited[-1]
        embed_at_endpoint(paced, TEXTS)
    assert len(waited) == len(served.asked) == 3
    assert waited[2] > 0


def test_the_budget_ends_the_requests_and_what_was_paid_for_is_handed_on():
    got: list[str] = []
    with serving(lengths) as served:
        limited = client(served, EndpointLimits(timeout_s=2, max_requests=1))
        with pytest.raises(BudgetError, match="1 requests is used up"):
            embed_at_endpoint(limited, TEXTS, lambda texts, rows: got.extend(texts))
    assert got == TEXTS[:64]
    assert limited.spending.tokens.sent == 1  # by the reply's own account
