"""What Keel changes in vLLM's own methods, on plain objects."""

from __future__ import annotations

import asyncio
import importlib.util
from types import SimpleNamespace

import pytest

from keel.engines.vllm import plugin
from keel.engines.vllm.gate import Gate
from keel.errors import NotAppliedError


@pytest.mark.parametrize(
    "error",
    [
        NotAppliedError("self-test: a floor\nchanged nothing"),
        RuntimeError("Worker failed with error 'self-test: a floor changed nothing'"),
        TimeoutError("RPC call to keel_call timed out"),
    ],
    ids=["in this process", "in a worker's", "of a worker that hangs"],
)
def test_why_a_canary_failed_is_said_whichever_process_saw_it(error, monkeypatch):
    """A worker's is vLLM's own error: `keel serve` was not told, and stayed."""
    gate = Gate.make()
    monkeypatch.setenv("KEEL_GATE", str(gate.folder))

    def fails():
        raise error

    core = SimpleNamespace(keel=SimpleNamespace(run_canary_if_due=fails))
    try:
        with pytest.raises(type(error)):
            plugin._check_cap(core)
        assert gate.reason == " ".join(str(error).split())
    finally:
        gate.leave()


class _Client:
    """A client of an engine whose answer comes when it is set."""

    def __init__(self, *, engine_dead=False):
        self.resources = SimpleNamespace(engine_dead=engine_dead)
        self.answer = asyncio.get_running_loop().create_future()

    async def call(self, method):
        return method, await self.answer


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.filterwarnings("default")  # vLLM's own, at import
def test_a_call_to_an_engine_fails_when_that_dies(monkeypatch):
    """vLLM leaves it waiting, and its HTTP server waits for the request behind it."""
    from vllm.v1.engine.exceptions import EngineDeadError

    monkeypatch.setattr(plugin, "_EVERY_S", 0.01)

    async def asked():
        client = _Client()
        call = asyncio.create_task(plugin._fail_with_engine(_Client.call, client, "firing"))
        await asyncio.sleep(0.05)
        assert not call.done()
        client.resources.engine_dead = True
        with pytest.raises(EngineDeadError):
            await call
        assert client.answer.cancelled()

        alive = _Client()
        call = asyncio.create_task(plugin._fail_with_engine(_Client.call, alive, "firing"))
        alive.answer.set_result(7)
        assert await call == ("firing", 7)

        left = _Client()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.03):
                await plugin._fail_with_engine(_Client.call, left, "firing")
        assert left.answer.cancelled()

    asyncio.run(asked())
