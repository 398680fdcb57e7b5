"""Embeddings from a real server that misbehaves as it is told to."""

from __future__ import annotations

import json

import numpy as np
import pytest

from keel.endpoint import Endpoint, embed_at_endpoint
from keel.errors import EndpointError
from keel.settings import EndpointLimits
from tests.endpoint.server import Answer, Asked, refuse, serving

LIMITS = EndpointLimits(timeout_s=2, attempts=3)
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
        rows_ND = embed_at_endpoint(Endpoint("m", served.address), TEXTS, LIMITS)
    assert np.array_equal(rows_ND[:, 0], np.arange(70))
    assert [len(asked.body["input"]) for asked in served.asked] == [64, 6]


def test_a_refused_pace_is_waited_for():
    def slow(number: int, asked: Asked) -> Answer:
        return refuse(429) if number == 0 else lengths(number, asked)

    with serving(slow) as served:
        rows_ND = embed_at_endpoint(Endpoint("m", served.address), TEXTS[:2], LIMITS)
    assert rows_ND.shape == (2, 2)


@pytest.mark.parametrize(
    "behaviour",
    [
        lambda *_: refuse(401),
        lambda *_: embeddings([[1.0]]),
        lambda _n, asked: embeddings([[1.0] * (1 + k) for k in range(len(asked.body["input"]))]),
        lambda _n, asked: embeddings([[None] for _ in asked.body["input"]]),
    ],
    ids=["refuses", "too few", "of several lengths", "no numbers"],
)
def test_what_is_no_embedding_of_each_text_is_an_error_that_names_the_endpoint(behaviour):
    with serving(behaviour) as served, pytest.raises(EndpointError, match="'m' at http"):
        embed_at_endpoint(Endpoint("m", served.address), TEXTS[:3], LIMITS)


def test_an_endpoint_that_hangs_is_given_up():
    with serving(lambda *_: Answer(b"{}", after_s=30)) as served:
        quick = EndpointLimits(timeout_s=0.3, attempts=1)
        with pytest.raises(EndpointError):
            embed_at_endpoint(Endpoint("m", served.address), TEXTS[:1], quick)
