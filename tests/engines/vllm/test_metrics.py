"""What `/metrics` says of Keel: never that a server is capped where that is not shown."""

import asyncio
from types import SimpleNamespace

import pytest

from keel.engines.vllm.metrics import (
    EngineNumbers,
    EngineReader,
    ServerNumbers,
    adding_series,
    series_of,
)

FACTS = {"setting": "low", "enforced": False, "floors": "a" * 64, "weights": "b" * 64}
SERVER = ServerNumbers("tiny", True, {**FACTS, "versions": {"keel": "1"}}, probed_s_ago=5.0)
ENGINE = EngineNumbers(True, 7.0, {"low": 3, "none": 2}, {"low": 40}, {"low": {1: 4, 2: 9}})


def values(series, name):
    (family,) = [each for each in series if each.name == name]
    return dict(family.values)


def capped(server, *engines):
    return values(series_of(server, engines), "keel_capped")


def test_a_server_is_capped_where_it_is_open_and_every_engine_holds_its_default():
    assert capped(SERVER, ENGINE, ENGINE) == {("tiny", "0"): 1, ("tiny", "1"): 1}


@pytest.mark.parametrize(
    ("server", "engine"),
    [
        (ServerNumbers("tiny", False, FACTS), ENGINE),
        (ServerNumbers("tiny", True, {**FACTS, "setting": "none"}), ENGINE),
        (ServerNumbers("tiny", True, {}), ENGINE),
        (SERVER, EngineNumbers(False, 7.0)),
        (SERVER, None),
    ],
    ids=["not open", "default is none", "no floors", "not registered", "silent engine"],
)
def test_a_server_that_does_not_show_that_it_is_capped_exports_zero(server, engine):
    assert capped(server, engine) == {("tiny", "0"): 0}


def test_a_server_whose_engine_has_no_keel_exports_zero():
    assert capped(ServerNumbers("tiny", True, {})) == {("tiny", "0"): 0}


def test_firing_is_by_setting_and_layer_and_workers_that_share_a_layer_count_once():
    raw = {
        "default_is_held": True,
        "tested_s_ago": 1.0,
        "fault": "",
        "requests": {"low": 1},
        "firing": {
            "low\x1f2": [{1: [10, 4]}, {1: [10, 4]}, {2: [10, 6]}],
            "low": [{1: [5, 1]}, {1: [5, 1]}, {2: [5, 0]}],
            "keel-self-test": [{1: [9, 9]}],
        },
    }
    series = series_of(SERVER, [EngineNumbers.of(raw)])
    moved = values(series, "keel_tokens_moved")
    assert moved == {("tiny", "0", "low", "1"): 5, ("tiny", "0", "low", "2"): 6}
    assert values(series, "keel_tokens") == {("tiny", "0", "low"): 15}


def test_a_server_of_sixteen_settings_at_eight_layers_has_at_most_a_hundred_series():
    """Sixteen settings with requests, tokens and firing; an ordinary run holds three."""
    names = [f"s{n}" for n in range(16)]
    engine = EngineNumbers(
        True,
        1.0,
        dict.fromkeys(names, 1),
        dict.fromkeys(names, 9),
        {name: dict.fromkeys(range(8), 2) for name in names},
    )
    series = series_of(SERVER, [engine])
    assert sum(len(each.values) for each in series) <= 100
    assert values(series, "keel_tokens_moved")["tiny", "0", "s9", "all"] == 16
    few = EngineNumbers(
        True, 1.0, dict.fromkeys(names[:4], 1), dict.fromkeys(names[:3], 1), ENGINE.moved
    )
    assert sum(len(each.values) for each in series_of(SERVER, [few])) <= 60


def test_an_engine_that_fails_or_hangs_counts_as_not_capped(monkeypatch):
    monkeypatch.setattr("keel.engines.vllm.metrics._PATIENCE_S", 0.01)

    class Engines:
        async def call_utility_all_async(self, *_):
            await asyncio.sleep(60)

    client = SimpleNamespace(engine_core=Engines())
    assert asyncio.run(EngineReader().read(client, "low")) == [None]


VLLMS = b"# HELP vllm:a A.\n# TYPE vllm:a gauge\nvllm:a 1.0\n"


@pytest.mark.parametrize(
    ("accepted", "end"),
    [(b"", b""), (b"application/openmetrics-text;version=1.0.0", b"# EOF\n")],
    ids=["text", "openmetrics"],
)
def test_the_series_follow_vllms_in_the_format_that_was_asked_for(accepted, end):
    parsers = pytest.importorskip("prometheus_client.parser")
    openmetrics = pytest.importorskip("prometheus_client.openmetrics.parser")
    sent = []
    scope = {"headers": [(b"accept", accepted), (b"Accept-Encoding", b"gzip")]}

    async def send(message):
        sent.append(message)

    async def answer():
        adding = adding_series(scope, send, series_of(SERVER, [ENGINE]))
        await adding({"type": "http.response.start", "status": 200, "headers": []})
        await adding({"type": "http.response.body", "body": VLLMS + end})

    asyncio.run(answer())
    assert scope["headers"] == [(b"accept", accepted)]
    text = sent[1]["body"].decode()
    parse = openmetrics if end else parsers
    names = {f.name for f in parse.text_string_to_metric_families(text)}
    assert {"vllm:a", "keel_capped", "keel_requests", "keel_tokens_moved"} <= names
    assert 'keel_tokens_moved_total{engine="0",layer="2",model_name="tiny",setting="low"} 9.0' in (
        text
    )
