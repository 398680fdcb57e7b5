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


def numbers_of(used, *, settings=16, layers=8):
    """An engine that holds so many settings at so many layers, of which requests had these."""
    names = [f"s{n}" for n in range(settings)]
    moved = {name: dict.fromkeys(range(layers), 2 * (name in used)) for name in names}
    tokens = {name: 9 * (name in used) for name in names}
    return EngineNumbers(True, 1.0, dict.fromkeys(used, 1), tokens, moved)


def test_settings_that_no_request_had_have_no_series():
    """A run with eight settings had 32 series of their layers, all at 0, and 16 more."""
    series = series_of(SERVER, [numbers_of(["s5"])])
    assert sum(len(each.values) for each in series) == 4 + 1 + 1 + 8
    assert values(series, "keel_tokens") == {("tiny", "0", "s5"): 9}


@pytest.mark.parametrize("layers", [1, 6, 16])
@pytest.mark.parametrize("beside", [0, 43])
def test_a_server_of_sixteen_settings_has_at_most_sixty_series(layers, beside):
    """43: those of an alarm, all of whose states three settings and `others` have seen."""
    used = ["s9", "none", *(f"s{n}" for n in range(9))]
    series = series_of(SERVER, [numbers_of(used, layers=layers)], beside=beside)
    assert sum(len(each.values) for each in series) + beside <= 60
    requests = values(series, "keel_requests")
    assert requests == {("tiny", "0", name): 1 for name in ("s9", "none", "s0")} | {
        ("tiny", "0", "others"): 8
    }
    moved = values(series, "keel_tokens_moved")
    assert sum(moved.values()) == 10 * layers * 2
    assert moved["tiny", "0", "others", "all"] == 8 * layers * 2


def test_no_counter_falls_when_one_more_setting_is_used():
    """Prometheus takes a fall for a counter that began anew, and adds all of it again."""
    used, before = [], {}
    for name in ("low", "none", "s3", "s1", "s2", "s0"):
        used.append(name)
        series = series_of(SERVER, [numbers_of(used)])
        now = {(s.name, *labels): n for s in series for labels, n in s.values.items()}
        counters = {key for key in now if key[0] in ("keel_requests", "keel_tokens")}
        assert all(now[key] >= before.get(key, 0) for key in counters)
        before = {key: now[key] for key in counters}
    assert {key[-1] for key in before if key[0] == "keel_requests"} == {*used[:3], "others"}


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
        adding = adding_series(scope, send, lambda _: series_of(SERVER, [ENGINE]))
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
