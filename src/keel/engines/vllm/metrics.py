"""Keel's numbers on vLLM's own `/metrics`: is this server capped, by what, and how often it moves.

They are taken from the engines when somebody looks, not counted in the HTTP processes: so they are
right under several API servers, and hold what came by any path. No conversation, user or request
is ever a label.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keel.engines.vllm.asgi import Scope, Send, changing_body, header_of
from keel.engines.vllm.deployment import OFF, SCRATCH
from keel.engines.vllm.faults import FaultLog
from keel.engines.vllm.live import named_change

METRICS_PATH = "/metrics"
_PATIENCE_S = 5.0
"""How long the engines may take to answer; Prometheus itself waits 10 s."""
NUMBERS_FAILED, FIRING_FAILED = "engines give no numbers", "a layer was passed by"
"""Kinds of faults."""
_MOST_SERIES = 60
"""Keel's series of a server with one engine: layers have their own while there is room."""
NAMED_SETTINGS = 3
"""Settings that have series of their own: those that requests had first."""
OTHERS = "others"
"""Label of the settings beyond, together."""
_END = b"# EOF\n"
"""What ends an answer in the OpenMetrics format, and in no other."""


@dataclass(frozen=True)
class EngineNumbers:
    """What one engine core says of itself: see `CoreState.numbers`."""

    default_is_held: bool = False
    """Whether the setting of requests that name none is registered, and moves tokens."""
    tested_s_ago: float | None = None
    """Seconds since the engine last tested itself; None where it never did."""
    requests: Mapping[str, int] = field(default_factory=dict)
    """Requests so far, by setting."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Tokens computed under each setting so far."""
    moved: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """Tokens moved so far, by setting and layer."""
    fault: str = ""
    """Why it is not known how often floors fired; empty where it is."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> EngineNumbers:
        """The numbers as they came from the engine, several sets of floors added up by setting.

        Of workers that share a layer each has counted the same tokens.
        """
        tokens, moved = dict[str, int](), dict[str, dict[int, int]]()
        for registered, workers in given["firing"].items():
            name, _ = named_change(registered)
            if name == SCRATCH:
                continue
            layers = dict[int, int]()
            seen = 0
            for worker in workers:
                for layer, (of_layer, fired) in worker.items():
                    seen = max(seen, int(of_layer))
                    layers[int(layer)] = max(layers.get(int(layer), 0), int(fired))
            tokens[name] = tokens.get(name, 0) + seen
            of_name = moved.setdefault(name, {})
            for layer, fired in layers.items():
                of_name[layer] = of_name.get(layer, 0) + fired
        held, tested_s_ago = given["default_is_held"], given["tested_s_ago"]
        return cls(held, tested_s_ago, given["requests"], tokens, moved, given["fault"])

    def of_few_settings(self) -> EngineNumbers:
        """The numbers of settings that were used, those beyond the first few put together.

        The order is that of first use, which stays: a sum that lost a setting would be taken for
        a counter that began anew.
        """
        requests, tokens = Counter[str](), Counter[str]()
        moved = dict[str, dict[int, int]]()
        for number, setting in enumerate(self.requests):
            name = setting if number < NAMED_SETTINGS else OTHERS
            requests[name] += self.requests[setting]
            if setting in self.tokens:
                tokens[name] += self.tokens[setting]
            of_name = moved.setdefault(name, {})
            for layer, fired in self.moved.get(setting, {}).items():
                of_name[layer] = of_name.get(layer, 0) + fired
        held = {name: layers for name, layers in moved.items() if layers}
        return replace(self, requests=requests, tokens=tokens, moved=held)


@dataclass(frozen=True)
class ServerNumbers:
    """What a server's HTTP process knows without its engines."""

    model_name: str
    is_open: bool
    """Whether requests are answered: no fault was seen, and the last probe passed."""
    facts: Mapping[str, Any]
    """As `serving.facts_of` gives them."""
    probed_s_ago: float | None = None
    """Seconds since `keel serve` last probed the server; None where nobody does."""

    def shows_capped(self, engine: EngineNumbers | None) -> bool:
        """Whether an engine is shown to hold requests that name no setting."""
        is_meant = self.facts.get("setting", OFF) != OFF
        return self.is_open and is_meant and engine is not None and engine.default_is_held


@dataclass(frozen=True)
class HistogramValue:
    """How many values lay up to each bound, and their sum."""

    buckets: tuple[tuple[str, float], ...]
    """Bound and how many were not above it, `+Inf` last."""
    total: float


@dataclass(frozen=True)
class Series:
    """One family of series, as Prometheus takes it."""

    name: str
    help: str
    kind: str
    """`counter`, `gauge` or `histogram`."""
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float | HistogramValue]


def series_of(
    server: ServerNumbers, engines: Sequence[EngineNumbers | None], *, beside: int = 0
) -> list[Series]:
    """All of Keel's series but so many `beside`.

    An engine that did not answer (None) counts as not capped.
    """
    model = server.model_name
    by_engine = {(model, str(n)): engine for n, engine in enumerate(engines)}
    named = {key: e.of_few_settings() for key, e in by_engine.items() if e is not None}
    capped: dict[tuple[str, ...], float | HistogramValue] = {
        key: float(server.shows_capped(engine))
        for key, engine in (by_engine or {(model, "0"): None}).items()
    }
    own = ("model_name", "engine")
    series = [
        Series(
            "keel_capped",
            "Whether requests that name no setting are held: 1, or 0 where that is not shown.",
            "gauge",
            own,
            capped,
        ),
        _facts_series(server),
        Series(
            "keel_requests",
            "Requests by the setting that holds them.",
            "counter",
            (*own, "setting"),
            {(*key, s): n for key, e in named.items() for s, n in e.requests.items()},
        ),
        Series(
            "keel_tokens",
            "Tokens computed under each setting.",
            "counter",
            (*own, "setting"),
            {(*key, s): n for key, e in named.items() for s, n in e.tokens.items()},
        ),
        Series(
            "keel_canary_age_seconds",
            "Seconds since it was last shown that floors act: by the engine, by a probe over HTTP.",
            "gauge",
            (*own, "by"),
            dict(_ages(server, named)),
        ),
    ]
    room = (_MOST_SERIES - beside - sum(len(each.values) for each in series)) // max(1, len(named))
    moved = Series(
        "keel_tokens_moved",
        "Tokens that a setting's floors moved, by layer.",
        "counter",
        (*own, "setting", "layer"),
        {(*key, *labels): n for key, e in named.items() for labels, n in _moved(e, room)},
    )
    return [*series, moved]


def _facts_series(server: ServerNumbers) -> Series:
    facts = server.facts
    values = {
        "setting": facts.get("setting", OFF),
        "enforced": str(bool(facts.get("enforced"))).lower(),
        "floors": str(facts.get("floors", ""))[:12],
        "weights": str(facts.get("weights", ""))[:12],
        "version": (facts.get("versions") or {}).get("keel", ""),
    }
    return Series(
        "keel_server_info",
        "Default setting, and fingerprints of its floors and of the weights.",
        "gauge",
        ("model_name", *values),
        {(server.model_name, *values.values()): 1.0},
    )


def _moved(engine: EngineNumbers, room: int) -> Iterator[tuple[tuple[str, str], int]]:
    """(setting, layer) and count; of a setting that does not fit, all layers in one series."""
    waiting = len(engine.moved)
    for setting, layers in engine.moved.items():
        waiting -= 1  # each has one at least
        if setting != OTHERS and len(layers) + waiting <= room:
            room -= len(layers)
            yield from (((setting, str(layer)), n) for layer, n in sorted(layers.items()))
        else:
            room -= 1
            yield (setting, "all"), sum(layers.values())


def _ages(
    server: ServerNumbers, engines: Mapping[tuple[str, str], EngineNumbers]
) -> Iterator[tuple[tuple[str, str, str], float]]:
    for key, engine in engines.items():
        if engine.tested_s_ago is not None:
            yield (*key, "self-test"), engine.tested_s_ago
        if server.probed_s_ago is not None:
            yield (*key, "probe"), server.probed_s_ago


class EngineReader:
    """Asks the engines for their numbers, at most once a second however many look."""

    def __init__(self) -> None:
        self.faults = FaultLog()
        self.until = 0.0
        self.last: list[EngineNumbers | None] = []

    async def read(self, client: Any, default: str) -> list[EngineNumbers | None]:
        """The numbers of each engine; None for one that fails or does not answer in time.

        `default` is the registered name of the setting of requests that name none.
        """
        if time.monotonic() < self.until:
            return self.last
        call = client.engine_core.call_utility_all_async
        try:
            answers = await asyncio.wait_for(call("keel_numbers", default), _PATIENCE_S)
            self.last = [None if each is None else EngineNumbers.of(each) for each in answers]
        except Exception as error:  # whatever vLLM makes of an engine that died, or hangs
            self.faults.note(NUMBERS_FAILED, error)
            self.last = [None]
        for fault in [each.fault for each in self.last if each is not None and each.fault]:
            self.faults.note(FIRING_FAILED, fault)
        self.until = time.monotonic() + 1.0
        return self.last


def adding_series(scope: Scope, send: Send, series: Callable[[int], Iterable[Series]]) -> Send:
    """A `send` that adds series to vLLM's metrics, in the format that was asked for.

    `series` is called with how many of Keel's are there already.
    """
    # What is packed cannot be added to.
    scope["headers"] = [(k, v) for k, v in scope["headers"] if k.lower() != b"accept-encoding"]
    accepted = header_of(scope, "accept")

    async def added(start: Mapping[str, Any], body: bytes) -> bytes:
        if start["status"] != 200:
            return body
        beside = sum(line.startswith(b"keel_") for line in body.splitlines())
        return body.removesuffix(_END) + _written(series(beside), accepted)

    return changing_body(send, added)


def _written(series: Iterable[Series], accepted: str) -> bytes:
    """The series as text, in the format that vLLM's own answer to `accepted` has."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.exposition import choose_encoder

    kinds = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    families = []
    for each in series:
        family = kinds[each.kind](each.name, each.help, labels=each.labels)
        for labels, value in each.values.items():
            if isinstance(value, HistogramValue):
                family.add_metric(labels, value.buckets, value.total)
            else:
                family.add_metric(labels, value)
        families.append(family)

    class Collected:
        def collect(self) -> Iterator[Any]:
            yield from families

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    encode, _ = choose_encoder(accepted)
    text: bytes = encode(registry)
    return text
