"""Probes a running server over HTTP: is it capped? For `keel check`, and to open `keel serve`.

A setting that is named must move tokens and change what is predicted; one that is not there must be
refused; a request that names none must be held by the default.
"""

from __future__ import annotations

import os
import secrets
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from keel.engines.vllm import FACTS_PATH, SETTING_HEADER, line_of
from keel.errors import EndpointError, NotAppliedError, UsageError
from keel.settings import CheckSettings
from keel.types import UNSTEERED

NO_SETTING = "keel-probe-no-such-setting"
_TEXT = (
    "You are a pirate who has sailed the seven seas for a hundred years. Never speak as an "
    "assistant. Tell me, in your own voice and at length, what you saw in the deep, who you are, "
    "and what the ghosts of the drowned have whispered to you at night."
)
_TOKENS = 8
_OTHERWISE = (
    *(httpx.HTTPError, httpx.InvalidURL, ValueError),
    *(AttributeError, IndexError, KeyError, TypeError),  # JSON of some other service
)
"""What an answer raises that is not of vLLM's server with Keel."""


@dataclass(frozen=True)
class ProbeResult:
    """What a server showed."""

    url: str
    facts: Mapping[str, Any]
    """What the server says of itself: settings, layers, hashes, versions."""
    setting: str
    """The setting that was probed."""
    moved: int
    """Tokens that it moved, over all its layers."""
    slots: int
    """Tokens that it saw, over all its layers."""
    change: float | None
    """How far the log-probabilities moved from those without a setting, in nats; None where the
    server lets nobody go without."""

    @property
    def line(self) -> str:
        """All of it in one line."""
        shown = [f"{self.moved} of {self.slots} slots moved"]
        if self.change is not None:
            shown.append(f"predictions changed by {self.change:.2g} nats")
        shown.append("an unknown setting is refused")
        return (
            f"capped: {self.url}: {line_of(self.facts)}; shown over HTTP with {self.setting}: "
            f"{', '.join(shown)}"
        )


def probe_server(client: httpx.Client, url: str) -> ProbeResult:
    """Probe the server at `url` with a few short requests.

    Raises NotAppliedError where it does not show that it is capped, EndpointError where it does not
    answer.
    """
    with _reaching(url):
        return _Probe(client, url.rstrip("/").removesuffix("/v1")).run()


def check_server(url: str, settings: CheckSettings = CheckSettings()) -> ProbeResult:
    """Probe a server from outside.

    Raises as `probe_server`, and UsageError for a key that is not set.
    """
    headers = {}
    if settings.key_variable is not None:
        key = os.environ.get(settings.key_variable)
        if not key:
            raise UsageError(f"the environment variable {settings.key_variable} holds no key")
        headers["authorization"] = f"Bearer {key}"

    def bound(response: httpx.Response) -> None:
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _BoundBody(response.stream, time.monotonic() + settings.timeout_s)

    with httpx.Client(
        headers=headers,
        timeout=settings.timeout_s,
        verify=_trusted(settings),
        event_hooks={"response": [bound]},
    ) as client:
        return probe_server(client, url)


def _trusted(settings: CheckSettings) -> ssl.SSLContext | bool:
    """Which certificates are taken. Raises UsageError for a file that holds none."""
    if settings.authority is None:
        return not settings.accepts_any_certificate
    if settings.accepts_any_certificate:
        raise UsageError("--ca and --insecure were given; leave one out")
    try:
        return ssl.create_default_context(cafile=settings.authority)
    except OSError as error:
        raise UsageError(
            f"--ca {settings.authority} holds no certificates: {error}; give a file in PEM"
        ) from error


class _BoundBody(httpx.SyncByteStream):
    """An answer's body, which must be whole in time: httpx bounds the wait for each part only."""

    def __init__(self, parts: httpx.SyncByteStream, ends: float) -> None:
        self.parts, self.ends = parts, ends

    def __iter__(self) -> Iterator[bytes]:
        for part in self.parts:
            if time.monotonic() > self.ends:
                raise httpx.ReadTimeout("its answer goes on and on")
            yield part

    def close(self) -> None:
        self.parts.close()


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as error:
        raise EndpointError(
            f"{url} has not answered in time ({error}); look whether it is busy or still loading, "
            "or wait longer: keel check --timeout SECONDS"
        ) from error
    except _OTHERWISE as error:
        if "CERTIFICATE" in str(error):
            raise EndpointError(
                f"{url} shows a certificate that is not trusted here ({error}); name its "
                "authority's, or itself, with --ca FILE, or look at none with --insecure"
            ) from error
        raise EndpointError(
            f"{url} does not answer as vLLM's server does: {type(error).__name__} {error}; look "
            "at the address, and whether the server is up"
        ) from error


class _Probe:
    """The requests of one probe."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        self.client, self.url = client, url
        self.facts = self._facts()
        health = client.get(f"{url}/health")
        if health.status_code != 200:
            raise NotAppliedError(f"{url}/health is {health.status_code}: {_reason(health)}")
        self.model = self._json(client.get(f"{url}/v1/models"))["data"][0]["id"]

    def run(self) -> ProbeResult:
        settings = self.facts.get("settings") or []
        default = self.facts["setting"]
        name = default if default != UNSTEERED else (settings or [UNSTEERED])[0]
        if name == UNSTEERED:
            raise NotAppliedError(f"{self.url} has no setting but {UNSTEERED}: it is uncapped")
        self._check_refused(NO_SETTING)
        before = self._firing(name)
        named = self._answer(name)
        after = self._firing(name)
        slots, moved = after[0] - before[0], after[1] - before[1]
        if slots <= 0:
            raise NotAppliedError(
                f"{self.url} answered a request for {name}, and no layer saw a token of it"
            )
        if moved <= 0:
            raise NotAppliedError(
                f"{self.url}: {name} moved none of {slots} slots of a text that is far from an "
                "assistant's; its floors lie under everything, and do nothing"
            )
        if default != UNSTEERED:
            self._answer(None, expected=default)
            if self._firing(default)[0] <= (after[0] if name == default else 0):
                raise NotAppliedError(
                    f"{self.url} answered a request that names no setting, and no layer saw a "
                    f"token of it under {default}"
                )
        return ProbeResult(self.url, self.facts, name, moved, slots, self._change(named))

    def _change(self, named: list[float]) -> float | None:
        """How far a setting moved the log-probabilities; None where `none` cannot be named."""
        allowed = self.facts.get("allowed")
        default = self.facts["setting"]
        if self.facts["enforced"]:
            self._check_refused(UNSTEERED)
            return None
        if allowed is not None and UNSTEERED not in allowed and default != UNSTEERED:
            return None
        free, again = self._answer(UNSTEERED), self._answer(UNSTEERED)
        change, noise = _apart(named, free), _apart(free, again)
        if not change > 2 * noise:
            raise NotAppliedError(
                f"{self.url} predicts the same with a setting and without ({change:.2g} nats "
                f"apart; two answers without, {noise:.2g}): it is uncapped"
            )
        return change

    def _facts(self) -> dict[str, Any]:
        reply = self.client.get(f"{self.url}{FACTS_PATH}")
        if reply.status_code in (404, 405):
            raise NotAppliedError(
                f"{self.url} runs without Keel, or with one that does not say so: its answers may "
                "be uncapped; start it with keel serve"
            )
        facts: dict[str, Any] = self._json(reply)
        return facts

    def _firing(self, name: str) -> tuple[int, int]:
        """Slots seen and slots moved under a setting so far."""
        reply = self.client.get(f"{self.url}{FACTS_PATH}", params={"firing": name})
        pairs = self._json(reply)["firing"].values()
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    def _post(self, name: str | None) -> httpx.Response:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": _TEXT,
            "max_tokens": _TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "logprobs": 1,
            "cache_salt": secrets.token_hex(8),  # so that every token is computed
        }
        if name is not None:
            body["vllm_xargs"] = {"keel": name}
        return self.client.post(f"{self.url}/v1/completions", json=body)

    def _answer(self, name: str | None, expected: str | None = None) -> list[float]:
        """Log-probabilities of an answer under a setting; None: the default, `expected`."""
        reply = self._post(name)
        answer = self._json(reply)
        used, wanted = reply.headers.get(SETTING_HEADER), name or expected
        if used != wanted:
            raise NotAppliedError(f"{self.url} held a request for {wanted} by {used}")
        logprobs: list[float] = answer["choices"][0]["logprobs"]["token_logprobs"]
        return logprobs

    def _check_refused(self, name: str) -> None:
        reply = self._post(name)
        if reply.status_code != 400:
            raise NotAppliedError(
                f"{self.url} answered a request for the setting {name} with status "
                f"{reply.status_code}, expected 400: it does not look at settings"
            )

    def _json(self, reply: httpx.Response) -> Any:
        if reply.status_code in (401, 403):
            raise EndpointError(
                f"{self.url} wants a key; put it in an environment variable and name that: "
                "--key-env NAME"
            )
        if reply.status_code != 200:
            raise NotAppliedError(
                f"{reply.url} answered with {reply.status_code}: {_reason(reply)}"
            )
        return reply.json()


def _apart(first: list[float], second: list[float]) -> float:
    return max((abs(a - b) for a, b in zip(first, second, strict=False)), default=0.0)


def _reason(reply: httpx.Response) -> str:
    """What a refusal says, short."""
    try:
        return str(reply.json()["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return reply.text[:300] or "no reason given"
