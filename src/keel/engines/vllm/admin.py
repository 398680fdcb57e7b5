"""Changes a server's floors while it runs: `POST /keel/floors`, with the administrator's key.

Nothing changes before the new floors have been looked at, registered and tested in every engine,
and probed over HTTP by `keel serve`; then all HTTP processes go over at once.
"""

from __future__ import annotations

import asyncio
import fcntl
import hmac
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.engines.vllm.deployment import OFF, Deployment
from keel.engines.vllm.gate import FloorsChange, Gate
from keel.engines.vllm.live import LiveFloors
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.serving import (
    check_held,
    check_model,
    facts_of,
    held_settings,
    line_of,
    settings_of,
)
from keel.engines.vllm.staging import STAGE
from keel.errors import KeelError, UsageError
from keel.store import load_floors, load_settings, save_floors

CHANGE_PATH = "/keel/floors"
_TURN_S, _PATIENCE_S = 0.1, 180.0
"""How often to look for the probe's verdict, and how long at most."""


class _RefusedError(Exception):
    """A change that is not made, with the status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class FloorsCall:
    """One call that changes the floors: what holds now, and by which engines."""

    live: LiveFloors
    deployment: Deployment
    """As the engines have it."""
    gate: Gate | None
    state: Any
    """Of vLLM's app: its engines and their config."""

    async def answer(self, authorization: str, raw: bytes) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer; says on stderr what was changed, or why nothing was."""
        try:
            facts = await self._change(authorization, raw)
        except (_RefusedError, KeelError) as error:
            reason = " ".join(str(error).split())
            status = error.status if isinstance(error, _RefusedError) else 400
            _log(f"the floors stay as they are: {reason}")
            return status, {"error": {"message": reason, "code": status}}
        was = facts_of(self.deployment, self.live.environment)["floors"]
        _log(f"floors changed, from {was[:12]}: {line_of(facts)}")
        return 200, facts

    async def _change(self, authorization: str, raw: bytes) -> dict[str, Any]:
        gate = self._authorized(authorization)
        source, setting = _body(raw)
        with _alone(gate):
            change = await asyncio.to_thread(self._prepared, gate, source, setting)
            following = self.live.after(change)
            await self._stage(following)
            gate.propose(change)
            await _verdict(gate, change)
        return facts_of(
            following.under(self.deployment), following.environment, changes=change.number
        )

    def _authorized(self, authorization: str) -> Gate:
        variable = self.live.environment.admin_variable
        if variable is None or self.gate is None:
            raise _RefusedError(403, "this server's floors stay; keel serve --admin-key-env NAME")
        scheme, _, given = authorization.partition(" ")
        key = os.environ.get(variable, "")
        is_key = hmac.compare_digest(given.strip().encode(), key.encode())
        if scheme.lower() != "bearer" or not key or not is_key:
            raise _RefusedError(401, "a change of floors wants the administrator's key as bearer")
        return self.gate

    def _prepared(self, gate: Gate, source: str, setting: str | None) -> FloorsChange:
        """A copy of the floors, which later changes of their file do not reach.

        Raises KeelError where this server could not hold by them.
        """
        parallel = self.state.vllm_config.parallel_config
        if parallel.data_parallel_external_lb or parallel.data_parallel_hybrid_lb:
            raise UsageError(
                "behind a load balancer of its own a server reaches some of its engines only, and "
                "others would keep their floors; start second servers and switch over"
            )
        number = self.live.change + 1
        # Never a path that was used: settings are remembered by theirs.
        path = gate.folder / f"floors-{number}-{secrets.token_hex(4)}.safetensors"
        settings = load_settings(source)
        held = self.live.environment.setting
        chosen = setting or held
        if chosen not in (None, OFF, *settings):
            named = f"setting is {setting!r}" if setting else f"this server is held by {held!r}"
            raise UsageError(
                f"{named}, but {source} holds {', '.join(settings)}; send the name of one as "
                '"setting"'
            )
        # Where they hold several and the file has no default, the setting is needed.
        own = next(iter(settings)) if chosen else load_floors(source).name
        save_floors(list(settings.values()), path, default=own)
        change = FloorsChange(number, str(path), chosen)
        following = self.live.after(change)
        check_held(following.environment, self.deployment)
        check_model(following.environment, self.state.vllm_config.model_config)
        return change

    async def _stage(self, following: LiveFloors) -> None:
        """Register and test the floors in every engine of every node."""
        settings = settings_of(following.environment)
        packed = {
            name: PackedInterventions.of(name, settings[name]).to_bytes()
            for name in held_settings(following.environment)
        }
        call = (STAGE, following.change, self.live.change, packed)
        core = self.state.engine_client.engine_core
        engines = await core.call_utility_all_async("collective_rpc", "keel_call", None, call, None)
        for reason in (reason for engine in engines for reason in engine if reason):
            raise _RefusedError(409, reason)


async def _verdict(gate: Gate, change: FloorsChange) -> None:
    """Wait until the one who probes the server has let a change through."""
    for _ in range(round(_PATIENCE_S / _TURN_S)):
        if gate.live == change:
            return
        reason = gate.verdict_on(change.number)
        if reason is not None:
            raise _RefusedError(409, reason)
        await asyncio.sleep(_TURN_S)
    gate.withdraw()
    if gate.live != change:
        raise _RefusedError(503, f"no probe has answered in {_PATIENCE_S:.0f} s")


@contextmanager
def _alone(gate: Gate) -> Iterator[None]:
    """Lets one change at a time through, of all HTTP processes."""
    with (gate.folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _RefusedError(409, "another change of floors is under way") from error
        yield


def _body(raw: bytes) -> tuple[str, str | None]:
    """Where the floors are, and the default setting where one is named. Raises UsageError."""
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise UsageError(f'the body is no JSON; send {{"floors": "/path/of/run"}}: {error}') from (
            error
        )
    unknown = set(body) - {"floors", "setting"} if isinstance(body, Mapping) else {"no object"}
    if unknown:
        raise UsageError(f"the body has {', '.join(sorted(unknown))}, expected floors and setting")
    floors, setting = body.get("floors"), body.get("setting")
    if not isinstance(floors, str) or not floors:
        raise UsageError(
            f"floors is {floors!r}, expected a run folder, a file of floors or a hub id, as the "
            "server's machine has it"
        )
    if setting is not None and (not isinstance(setting, str) or not setting):
        raise UsageError(f"setting is {setting!r}, expected a setting's name")
    return str(Path(floors).resolve()) if Path(floors).exists() else floors, setting


def _log(line: str) -> None:
    print(f"keel: {line}", file=sys.stderr, flush=True)
